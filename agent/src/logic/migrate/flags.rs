//! rsync's options, and what each becomes.

mod table;

use super::draft::{At, Remark, Setting, SourceDraft, TargetDraft, Value, Verdict};
use Verdict::{Danger, Differs, Kept, Nothing};
use table::{LETTERS, LETTERS_WITH_VALUE, WITH_VALUE, told};

/// One option as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) at: At,
    /// Its long name, or the letter of one that has none.
    pub(super) name: String,
    /// What belongs to it.
    pub(super) value: Option<String>,
}

impl Flag {
    fn written(&self) -> String {
        let dashes = if self.name.len() == 1 { "-" } else { "--" };
        match &self.value {
            Some(value) => format!("{dashes}{}={value}", self.name),
            None => format!("{dashes}{}", self.name),
        }
    }
}

/// Splits rsync's arguments into options and the rest.
pub(super) fn split(words: &[(At, String)]) -> (Vec<Flag>, Vec<(At, String)>) {
    let (mut flags, mut rest) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some((at, word)) = words.next() {
        let flag = |name: &str, value: Option<String>| Flag {
            at: at.clone(),
            name: name.to_owned(),
            value,
        };
        if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            match long.split_once('=') {
                Some((name, value)) => flags.push(flag(name, Some(value.to_owned()))),
                None if WITH_VALUE.contains(&long) => {
                    let value = words.next().map(|(_, value)| value.clone());
                    flags.push(flag(long, value));
                }
                None => flags.push(flag(long, None)),
            }
            continue;
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            rest.push((at.clone(), word.clone()));
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let with_value = LETTERS_WITH_VALUE
                .iter()
                .find(|(known, _)| *known == letter);
            if let Some((_, name)) = with_value {
                let attached = letters.as_str();
                let value = match attached {
                    "" => words.next().map(|(_, value)| value.clone()),
                    attached => Some(attached.trim_start_matches('=').to_owned()),
                };
                flags.push(flag(name, value));
                break;
            }
            let name = LETTERS.iter().find(|(known, _)| *known == letter);
            let name = name.map_or_else(|| letter.to_string(), |(_, name)| (*name).to_owned());
            flags.push(flag(&name, None));
        }
    }
    (flags, rest)
}

/// What options come to.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Remarks that belong to the source.
    pub(super) remarks: Vec<Remark>,
    /// Settings of the source.
    pub(super) settings: Vec<Setting>,
    pub(super) rules: Vec<(String, Remark)>,
    /// `--delete` in one of its forms.
    pub(super) delete: Option<Remark>,
    /// How often `-F` was met.
    filter_files: usize,
    password_file: Option<(String, Remark)>,
    /// Settings of each target.
    of_targets: Vec<Setting>,
}

impl Effect {
    /// Hands everything over, except for `delete`, which is the caller's business.
    pub(super) fn give(
        self,
        source: &mut SourceDraft,
        targets: &mut [TargetDraft],
        users: &[Option<&str>],
    ) {
        source.remarks.extend(self.remarks);
        source.settings.extend(self.settings);
        source.rules.extend(self.rules);
        for (target, user) in targets.iter_mut().zip(users) {
            target.settings.extend(self.of_targets.iter().cloned());
            let Some((file, why)) = &self.password_file else {
                continue;
            };
            if user.is_some() {
                let value = Value::Text(file.clone());
                target
                    .settings
                    .push(Setting::new("password_file", value, why.clone()));
            } else {
                let text = "no user goes with it: rsync logs in as whoever runs it; write that name before the host \
                            (USER@HOST::MODULE) and add password_file";
                target
                    .remarks
                    .push(Remark::new(&why.at, Danger, &why.setting, text));
            }
        }
    }
}

/// What the options of one rsync come to. `at` is where it is called.
pub(super) fn effect(at: &At, flags: &[Flag]) -> Effect {
    let mut effect = Effect::default();
    for flag in flags {
        apply(flag, &mut effect);
    }
    if let Some(flag) = flags.iter().find(|flag| flag.name == "cvs-exclude") {
        let text = "$HOME/.cvsignore and $CVSIGNORE are not read: write `merge,C FILE`";
        let why = Remark::new(at, Kept, flag.written(), text);
        let rules = [":C", "-C"].map(|rule| (rule.to_owned(), why.clone()));
        effect.rules.extend(rules);
    }
    let has = |name: &str| flags.iter().any(|flag| flag.name == name);
    let missing: Vec<&str> = [
        ("perms", "modes"),
        ("owner", "owners"),
        ("group", "groups"),
        ("times", "times"),
        ("links", "symlinks"),
    ]
    .iter()
    .filter(|(name, _)| !has("archive") && !has(name))
    .map(|(_, what)| *what)
    .chain((!has("hard-links")).then_some("hard links"))
    .collect();
    if !missing.is_empty() {
        let text = "these are always mirrored here";
        let setting = format!("rsync without {}", missing.join(", "));
        effect.remarks.push(Remark::new(at, Differs, setting, text));
    }
    for (name, keys) in [
        ("acls", &["acls"][..]),
        ("xattrs", &["xattrs", "capabilities"]),
    ] {
        if has(name) {
            continue;
        }
        for key in keys {
            let text = "as it was; remove the line to mirror them too";
            let why = Remark::new(at, Kept, format!("rsync without --{name}"), text);
            effect
                .settings
                .push(Setting::new(key, Value::Flag(false), why));
        }
    }
    effect
}

fn apply(flag: &Flag, effect: &mut Effect) {
    let value = flag.value.as_deref().unwrap_or_default();
    let why = |verdict, text: &str| Remark::new(&flag.at, verdict, flag.written(), text);
    match &flag.name[..] {
        "password-file" => {
            let why = why(
                Kept,
                "the same file, the same rules: mode 0600, the password alone",
            );
            effect.password_file = Some((value.to_owned(), why));
        }
        "exclude" | "include" => {
            let sign = if flag.name == "exclude" { '-' } else { '+' };
            let rule = format!("{sign} {value}");
            effect.rules.push((rule, why(Kept, "")));
        }
        "exclude-from" | "include-from" => {
            let sign = if flag.name == "exclude-from" {
                '-'
            } else {
                '+'
            };
            let rule = format!("merge,{sign} {value}");
            let text = "read when the agent starts; lines are patterns alone: where some begin with `+ ` or `- ` or are \
                        `!`, begin each with one of them and write `merge FILE`";
            effect.rules.push((rule, why(Differs, text)));
        }
        "filter" => effect.rules.push((value.to_owned(), why(Kept, ""))),
        "F" => filter_files(why, effect),
        // They count after all others.
        "cvs-exclude" => {}
        "bwlimit" => bwlimit(value, why, effect),
        "contimeout" => match value.parse::<u64>() {
            Ok(seconds) if (1..=600).contains(&seconds) => {
                let setting = Value::Number(seconds * 1_000);
                let setting = Setting::new("connect_timeout_ms", setting, why(Kept, ""));
                effect.of_targets.push(setting);
            }
            _ => effect.remarks.push(why(Differs, "it stays at 10 seconds")),
        },
        "max-delete" => match value.parse::<u64>() {
            Ok(count) => {
                let text =
                    "more than this within a minute are held, all of them, until somebody approves";
                let why = why(Differs, text);
                effect
                    .settings
                    .push(Setting::new("max_delete", Value::Number(count), why));
            }
            Err(_) => effect
                .remarks
                .push(why(Danger, "not a number; max_delete stays at 50%")),
        },
        name if name.starts_with("delete") || name == "del" => {
            let remark = match name {
                "delete-excluded" => why(
                    Danger,
                    "what is excluded here is protected there; remove it by hand if it is to go",
                ),
                _ => why(Kept, ""),
            };
            // The gravest counts, and is told.
            match &effect.delete {
                Some(earlier) if earlier.verdict >= remark.verdict => {}
                _ => effect.delete = Some(remark),
            }
        }
        name => {
            let (verdict, text) = told(name);
            effect.remarks.push(why(verdict, text));
        }
    }
}

/// `-F` looks for files of rules, a second one leaves them out.
fn filter_files(why: impl Fn(Verdict, &str) -> Remark, effect: &mut Effect) {
    let (rule, text) = match effect.filter_files {
        0 => (
            ": /.rsync-filter",
            "those above the source are read at the start and with `rescan`",
        ),
        1 => ("- .rsync-filter", ""),
        _ => return,
    };
    effect.filter_files += 1;
    effect.rules.push((rule.to_owned(), why(Kept, text)));
}

/// rsync counts in KiB unless there is a unit.
fn bwlimit(value: &str, why: impl Fn(Verdict, &str) -> Remark, effect: &mut Effect) {
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &value[digits.len()..].to_ascii_lowercase()[..] {
        "" | "k" | "kib" => Some(1_024.0),
        "b" => Some(1.0),
        "kb" => Some(1_000.0),
        "m" | "mib" => Some(1_048_576.0),
        "mb" => Some(1_000_000.0),
        "g" | "gib" => Some(1_073_741_824.0),
        "gb" => Some(1_000_000_000.0),
        _ => None,
    };
    let bytes = digits
        .parse::<f64>()
        .ok()
        .zip(factor)
        .map(|(number, factor)| number * factor)
        .filter(|bytes| bytes.is_finite() && (0.0..1e15).contains(bytes));
    match bytes {
        Some(bytes) if bytes < 1.0 => effect.remarks.push(why(Nothing, "no limit")),
        Some(bytes) => {
            let why = why(Kept, "bytes per second here, for the whole connection");
            let setting = Setting::new("bwlimit", Value::Number(bytes as u64), why);
            effect.of_targets.push(setting);
        }
        None => effect.remarks.push(why(
            Danger,
            "not a rate; nothing is limited until bwlimit is set",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(line: &str) -> Vec<String> {
        let at = At {
            file: "x".into(),
            line: 1,
        };
        let words: Vec<_> = line
            .split_whitespace()
            .map(|word| (at.clone(), word.to_owned()))
            .collect();
        let effect = effect(&at, &split(&words).0);
        effect.rules.into_iter().map(|(rule, _)| rule).collect()
    }

    #[test]
    fn rules_keep_their_order_and_what_cvs_ignores_comes_last() {
        for (line, expected) in [
            ("-aF", &[": /.rsync-filter"][..]),
            ("-aFF", &[": /.rsync-filter", "- .rsync-filter"]),
            (
                "-aF --exclude=x -F -F",
                &[": /.rsync-filter", "- x", "- .rsync-filter"],
            ),
            ("-aC --include x", &["+ x", ":C", "-C"]),
            (
                "--cvs-exclude -f-_x --filter=:_.rules",
                &["-_x", ":_.rules", ":C", "-C"],
            ),
            ("--exclude-from=list", &["merge,- list"]),
        ] {
            assert_eq!(rules(line), expected, "{line}");
        }
    }
}
