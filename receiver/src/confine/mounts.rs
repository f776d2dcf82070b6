//! Where other file systems are mounted below a directory, as the kernel tells it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use syncd_proto::path::WirePath;

/// Most that are looked at.
const MOUNTS_MAX: usize = 1_000;

/// The mount points below the directory at `path`; none where that cannot be told.
pub(super) fn below(path: &[u8]) -> Vec<WirePath> {
    let Ok(path) = std::fs::canonicalize(OsStr::from_bytes(path)) else {
        return Vec::new();
    };
    match std::fs::read("/proc/self/mountinfo") {
        Ok(table) => points(&table, &path),
        Err(_) => Vec::new(),
    }
}

fn points(table: &[u8], path: &Path) -> Vec<WirePath> {
    let lines = table.split(|byte| *byte == b'\n');
    let point = |line: &[u8]| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        let point = plain(field);
        let below = Path::new(OsStr::from_bytes(&point)).strip_prefix(path);
        let below = WirePath::from_relative(below.ok()?)?;
        (!below.is_root()).then_some(below)
    };
    lines.filter_map(point).take(MOUNTS_MAX).collect()
}

/// The text without the octal numbers that stand for blanks and the like.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let number = after.get(..3).filter(|_| byte == b'\\');
        let number = number.and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(meant) => {
                text.push(meant);
                rest = &after[3..];
            }
            None => {
                text.push(byte);
                rest = after;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_below_are_found_whatever_their_names() {
        let table = b"1 0 8:1 / / rw - ext4 /dev/vda rw\n\
            2 1 8:2 / /srv/www rw shared:1 - ext4 /dev/vdb rw\n\
            3 2 8:3 / /srv/www/a\\040b/c rw - tmpfs x rw\n\
            4 2 8:4 / /srv/wwwx rw - tmpfs x rw\n\
            5 2 8:5 / /srv/www/d\\134e rw - tmpfs x rw\nshort\n";
        let found = points(table, Path::new("/srv/www"));
        let expected = ["a b/c", "d\\e"];
        let expected = expected.map(|path| WirePath::from_relative(path.as_ref()).unwrap());
        assert_eq!(found, expected);
    }
}
