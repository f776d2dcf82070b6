//! `incoming chmod`: read once, applied to the mode of everything that arrives.
//!
//! Items are joined by commas without blanks: `[D|F][ugoa...](+|-|=)[rwxXst, or one of u g o]`, or
//! `[D|F]` and up to `7777` octal. `D` is for directories, `F` for all else. One item that cannot be
//! read makes the whole value void.

use std::fmt;

use syncd_proto::path::escaped;

const USER: u32 = 0o100;
const GROUP: u32 = 0o010;
const OTHER: u32 = 0o001;
const EVERYBODY: u32 = USER | GROUP | OTHER;
const MODE_BITS: u32 = 0o7777;
/// More items than this are refused.
const ITEMS_MAX: usize = 256;

/// A parsed `incoming chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod(Vec<Item>);

/// The value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChmodError {
    /// The item at fault.
    pub item: Vec<u8>,
}

impl fmt::Display for ChmodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read \"{}\"", escaped(&self.item))
    }
}

impl std::error::Error for ChmodError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    kinds: Kinds,
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    All,
    Directories,
    Others,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Octal(u32),
    Symbolic {
        who: Who,
        operator: Operator,
        what: What,
    },
}

/// Whose bits; nobody named means everybody's, as far as the umask allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Who {
    classes: u32,
    set_id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Bits {
        rwx: u32,
        x_if_sensible: bool,
        special: u32,
    },
    /// The bits that the class of this shift has.
    CopyOf(u32),
}

impl Chmod {
    /// Reads a value, which is not empty.
    ///
    /// # Errors
    /// [`ChmodError`] with the first item that cannot be read.
    pub fn parse(text: &[u8]) -> Result<Self, ChmodError> {
        let items: Vec<Item> = text
            .split(|byte| *byte == b',')
            .take(ITEMS_MAX + 1)
            .map(|text| {
                parse_item(text).ok_or_else(|| ChmodError {
                    item: text.to_vec(),
                })
            })
            .collect::<Result<_, _>>()?;
        if items.len() > ITEMS_MAX {
            return Err(ChmodError {
                item: text.to_vec(),
            });
        }
        Ok(Self(items))
    }

    /// The permission bits that `mode` becomes.
    #[must_use]
    pub fn apply(&self, mode: u32, is_directory: bool, umask: u32) -> u32 {
        self.0
            .iter()
            .filter(|item| match item.kinds {
                Kinds::All => true,
                Kinds::Directories => is_directory,
                Kinds::Others => !is_directory,
            })
            .fold(mode & MODE_BITS, |mode, item| {
                item.change.apply(mode, is_directory, umask)
            })
    }
}

fn parse_item(text: &[u8]) -> Option<Item> {
    let (kinds, rest) = match text.split_first()? {
        (b'D', rest) => (Kinds::Directories, rest),
        (b'F', rest) => (Kinds::Others, rest),
        _ => (Kinds::All, text),
    };
    let change = if rest.first()?.is_ascii_digit() {
        Change::Octal(octal(rest)?)
    } else {
        symbolic(rest)?
    };
    Some(Item { kinds, change })
}

fn octal(digits: &[u8]) -> Option<u32> {
    let value = digits.iter().try_fold(0_u32, |value, digit| match digit {
        b'0'..=b'7' => {
            Some(value * 8 + u32::from(digit - b'0')).filter(|value| *value <= MODE_BITS)
        }
        _ => None,
    })?;
    Some(value)
}

fn symbolic(text: &[u8]) -> Option<Change> {
    let operator_at = text.iter().position(|byte| b"+-=".contains(byte))?;
    let mut who = Who {
        classes: 0,
        set_id: 0,
    };
    for letter in &text[..operator_at] {
        match letter {
            b'u' => {
                who.classes |= USER;
                who.set_id |= 0o4000;
            }
            b'g' => {
                who.classes |= GROUP;
                who.set_id |= 0o2000;
            }
            b'o' => who.classes |= OTHER,
            b'a' => who.classes |= EVERYBODY,
            _ => return None,
        }
    }
    let operator = match text[operator_at] {
        b'+' => Operator::Add,
        b'-' => Operator::Remove,
        _ => Operator::Set,
    };
    let what = parse_what(&text[operator_at + 1..], who)?;
    Some(Change::Symbolic {
        who,
        operator,
        what,
    })
}

fn parse_what(text: &[u8], who: Who) -> Option<What> {
    match text {
        b"u" => return Some(What::CopyOf(6)),
        b"g" => return Some(What::CopyOf(3)),
        b"o" => return Some(What::CopyOf(0)),
        _ => {}
    }
    let (mut rwx, mut x_if_sensible, mut special) = (0, false, 0);
    for letter in text {
        match letter {
            b'r' => rwx |= 4,
            b'w' => rwx |= 2,
            b'x' => rwx |= 1,
            b'X' => x_if_sensible = true,
            b's' if who.set_id == 0 => special |= 0o4000,
            b's' => special |= who.set_id,
            b't' => special |= 0o1000,
            _ => return None,
        }
    }
    Some(What::Bits {
        rwx,
        x_if_sensible,
        special,
    })
}

impl Change {
    fn apply(self, mode: u32, is_directory: bool, umask: u32) -> u32 {
        let (who, operator, what) = match self {
            Self::Octal(bits) => return bits,
            Self::Symbolic {
                who,
                operator,
                what,
            } => (who, operator, what),
        };
        let (rwx, special) = match what {
            What::CopyOf(shift) => ((mode >> shift) & 7, 0),
            What::Bits {
                rwx,
                x_if_sensible,
                special,
            } => {
                let sensible = x_if_sensible && (is_directory || mode & EVERYBODY != 0);
                (rwx | u32::from(sensible), special)
            }
        };
        let (classes, allowed) = match who.classes {
            0 => (EVERYBODY, !umask),
            classes => (classes, MODE_BITS),
        };
        let bits = ((classes * rwx) & allowed) | special;
        match operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => {
                let set_ids = match special {
                    0 => 0,
                    special => who.set_id | special,
                };
                let replaced = (classes * 7) | set_ids;
                (mode & !replaced) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_apply_from_left_to_right() {
        for (text, mode, is_directory, result) in [
            ("D755,F644", 0o664, false, 0o644),
            ("D755,F644", 0o777, true, 0o755),
            ("u=rwX,go=rX", 0o664, false, 0o644),
            ("go-rwx", 0o4775, false, 0o4700),
            ("+w", 0o444, false, 0o644),
            ("=", 0o777, false, 0),
            ("Dg+s", 0o775, true, 0o2775),
            ("o=g,+t", 0o750, false, 0o1755),
            ("a+X", 0o744, false, 0o755),
            ("F7777", 0, false, 0o7777),
        ] {
            let chmod = Chmod::parse(text.as_bytes()).expect(text);
            assert_eq!(chmod.apply(mode, is_directory, 0o022), result, "{text}");
        }
    }

    #[test]
    fn one_bad_item_voids_all() {
        for text in [
            "F644, D755",
            "F644,",
            ",F644",
            "go=u-w",
            "u644",
            "FD644",
            "F888",
            "77777",
            "a",
            "---",
            "F",
        ] {
            assert!(Chmod::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(text: Vec<u8>, mode: u32, is_directory: bool) {
            if let Ok(chmod) = Chmod::parse(&text) {
                prop_assert!(chmod.apply(mode, is_directory, 0o022) <= MODE_BITS);
            }
        }

        #[test]
        fn likely_values_end_well(text in "([DF]?[ugoa]{0,3}[-+=][rwxXstugo]{0,4},?){1,6}", mode: u32) {
            if let Ok(chmod) = Chmod::parse(text.as_bytes()) {
                prop_assert!(chmod.apply(mode, true, 0o022) <= MODE_BITS);
            }
        }
    }
}
