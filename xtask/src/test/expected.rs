//! `tests/expected-skips`: which tests may say that they cannot run, and why.

use crate::libtest::Skip;
use anyhow::{Result, bail};

/// Lines `NAME: WHY`; a name that ends in `*` stands for all that begin with it, as does a reason.
pub(crate) struct Expected(Vec<(String, String)>);

impl Expected {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            match line.split_once(": ") {
                Some((name, why)) if !why.trim().is_empty() => {
                    lines.push((name.to_owned(), why.to_owned()));
                }
                _ => bail!("tests/expected-skips: `{line}` gives no reason"),
            }
        }
        Ok(Self(lines))
    }

    pub(crate) fn has(&self, skip: &Skip) -> bool {
        self.0
            .iter()
            .any(|(name, why)| fits(name, &skip.name) && fits(why, &skip.why))
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_expected_with_its_reason_only() {
        let expected =
            Expected::parse("# why\n\na: no qemu-io\nb_*: the kernel*\n").expect("parses");
        let skip = |name: &str, why: &str| Skip {
            name: name.into(),
            why: why.into(),
        };
        assert!(expected.has(&skip("a", "no qemu-io")));
        assert!(!expected.has(&skip("a", "no fio")));
        assert!(!expected.has(&skip("aa", "no qemu-io")));
        assert!(expected.has(&skip("b_1", "the kernel has no landlock")));
        assert!(Expected::parse("a\n").is_err());
        assert!(Expected::parse("a: \n").is_err());
    }
}
