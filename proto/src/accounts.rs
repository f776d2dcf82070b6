//! Lines of `/etc/passwd` and `/etc/group`.

/// Names and numbers of lines `name:password:number:...`, in their order. What is no such line is left out.
pub fn accounts(bytes: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    bytes.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number = std::str::from_utf8(fields.nth(1)?).ok()?;
        Some((name, number.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_none_are_left_out() {
        let text = b"root:x:0:0::/root:/bin/sh\nwww:x:33:33\nbad\n:x:7:\nhigh:x:4294967296:\n+:::\nlast:x:9:";
        let found: Vec<_> = accounts(text).collect();
        let expected: [(&[u8], u32); 3] = [(b"root", 0), (b"www", 33), (b"last", 9)];
        assert_eq!(found, expected);
        assert_eq!(accounts(b"").count(), 0);
    }
}
