//! Lists of NUL-terminated strings.

/// The names in a directory listing. Anything that is not UTF-8 is skipped: it cannot be a name of the store's.
#[derive(Clone, Debug)]
pub struct Names<'b> {
    rest: &'b [u8],
}

impl<'b> Names<'b> {
    /// Reads `payload`, the answer to `XS_DIRECTORY`: names, each with its NUL.
    pub const fn new(payload: &'b [u8]) -> Self {
        Self { rest: payload }
    }
}

impl<'b> Iterator for Names<'b> {
    type Item = &'b str;

    fn next(&mut self) -> Option<&'b str> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let mut parts = self.rest.splitn(2, |byte| *byte == 0);
            let name = parts.next().unwrap_or_default();
            self.rest = parts.next().unwrap_or_default();
            match core::str::from_utf8(name) {
                Ok(name) if !name.is_empty() => return Some(name),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_split_at_their_nuls() {
        let listed =
            |payload: &'static [u8]| -> heapless::Vec<&str, 8> { Names::new(payload).collect() };
        assert_eq!(listed(b"a\0bc\0"), ["a", "bc"]);
        assert_eq!(listed(b"a\0bc"), ["a", "bc"]);
        assert_eq!(listed(b"\0\0a\0\xff\0b\0"), ["a", "b"]);
        assert!(listed(b"").is_empty());
    }
}
