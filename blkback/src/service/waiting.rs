//! How a service waits for work.

use std::fmt;
use std::str::FromStr;
use std::string::String;
use std::time::Duration;

use thiserror::Error;

/// How to wait for work: of a whole service, or of one disk that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Waiting {
    /// Sleep until rung.
    #[default]
    Block,
    /// Look at the rings for so long after the last work, then sleep.
    Spin(Duration),
    /// Never sleep while a frontend is connected.
    Poll,
}

/// No way to wait.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("'{0}': expected block, poll, spin, or spin and a time, as in spin:200us")]
pub struct WaitingError(String);

impl Waiting {
    /// What `spin` means by itself: a few times what sleeping and waking cost.
    pub const SPIN: Self = Self::Spin(Duration::from_micros(50));
}

/// `block`, `spin`, `spin:200us`, `poll`.
impl FromStr for Waiting {
    type Err = WaitingError;

    fn from_str(text: &str) -> Result<Self, WaitingError> {
        match text.split_once(':') {
            None if text == "block" => Some(Self::Block),
            None if text == "spin" => Some(Self::SPIN),
            None if text == "poll" => Some(Self::Poll),
            Some(("spin", time)) => crate::sink::time(time).map(Self::Spin),
            _ => None,
        }
        .ok_or_else(|| WaitingError(text.into()))
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("block"),
            Self::Poll => f.write_str("poll"),
            spin if *spin == Self::SPIN => f.write_str("spin"),
            Self::Spin(time) => write!(f, "spin:{}us", time.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    #[test]
    fn a_way_to_wait_has_one_word() {
        for (text, waiting) in [
            ("block", Waiting::Block),
            ("spin", Waiting::SPIN),
            ("spin:200us", Waiting::Spin(Duration::from_micros(200))),
            ("poll", Waiting::Poll),
        ] {
            assert_eq!(text.parse(), Ok(waiting));
            assert_eq!(waiting.to_string(), text);
        }
        assert_eq!(
            "spin:1ms".parse(),
            Ok(Waiting::Spin(Duration::from_millis(1)))
        );
        for text in ["", "sleep", "spin:", "spin:50", "poll:1s", "block:"] {
            let error = text.parse::<Waiting>().expect_err(text);
            assert!(error.to_string().starts_with(&format!("'{text}': ")));
        }
    }
}
