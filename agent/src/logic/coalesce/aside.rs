//! Names that are put aside: an editor renames a file to a backup and makes the name anew at once. The
//! rename waits for that, so that the name is never missing at the target.

use syncd_proto::path::WirePath;

use super::Millis;

/// How long a rename waits that looks like a backup of the name, in milliseconds.
const BACKUP_MS: Millis = 500;

/// How long any other rename of a file waits, in milliseconds.
const RENAME_MS: Millis = 10;

/// How long the rename of a file waits for its old name to come again.
pub(super) fn patience(from: &WirePath, to: &WirePath) -> Millis {
    let (Some(old), Some(new)) = (from.file_name(), to.file_name()) else {
        return 0;
    };
    let (old, new) = (old.as_bytes(), new.as_bytes());
    let extends = new.len() > old.len() && new.windows(old.len()).any(|part| part == old);
    if extends && from.parent() == to.parent() {
        BACKUP_MS
    } else {
        RENAME_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_holds_the_old_one_beside_it_is_a_backup() {
        let path = |text: &str| WirePath::from_relative(text.as_ref()).unwrap();
        for to in ["d/page~", "d/#page#", "d/page.bak", "d/.page.old"] {
            assert_eq!(patience(&path("d/page"), &path(to)), BACKUP_MS, "{to}");
        }
        for to in ["d/pag", "e/page~", "d/other"] {
            assert_eq!(patience(&path("d/page"), &path(to)), RENAME_MS, "{to}");
        }
    }
}
