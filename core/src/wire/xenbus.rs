//! `xen/io/xenbus.h`: the states of the two ends of a split device, as each writes them into its `state` node.

use core::fmt;

/// `enum xenbus_state`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum XenbusState {
    /// Nothing known: also what a missing node means.
    Unknown = 0,
    /// Starting.
    Initialising = 1,
    /// Ready for the peer's offer, or waiting for a hotplug script.
    InitWait = 2,
    /// Everything offered, waiting for the peer to connect.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// Going away, by request or after an error.
    Closing = 5,
    /// Gone.
    Closed = 6,
    /// Changing its configuration.
    Reconfiguring = 7,
    /// Changed its configuration.
    Reconfigured = 8,
}

/// A `state` node holds something that is no state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Neither a decimal number nor empty.
    #[error("state is not a decimal number")]
    NotANumber,
    /// A number beyond the states there are.
    #[error("state {0} is beyond 8")]
    OutOfRange(u32),
}

impl XenbusState {
    /// Every state with the header's name for it.
    pub const NAMED: &'static [(&'static str, Self)] = &[
        ("XenbusStateUnknown", Self::Unknown),
        ("XenbusStateInitialising", Self::Initialising),
        ("XenbusStateInitWait", Self::InitWait),
        ("XenbusStateInitialised", Self::Initialised),
        ("XenbusStateConnected", Self::Connected),
        ("XenbusStateClosing", Self::Closing),
        ("XenbusStateClosed", Self::Closed),
        ("XenbusStateReconfiguring", Self::Reconfiguring),
        ("XenbusStateReconfigured", Self::Reconfigured),
    ];

    /// The state of this number.
    ///
    /// # Errors
    /// [`StateError::OutOfRange`].
    pub const fn from_number(raw: u32) -> Result<Self, StateError> {
        Ok(match raw {
            0 => Self::Unknown,
            1 => Self::Initialising,
            2 => Self::InitWait,
            3 => Self::Initialised,
            4 => Self::Connected,
            5 => Self::Closing,
            6 => Self::Closed,
            7 => Self::Reconfiguring,
            8 => Self::Reconfigured,
            _ => return Err(StateError::OutOfRange(raw)),
        })
    }

    /// Reads the bytes of a `state` node: decimal digits and nothing else. Total: a peer wrote them.
    ///
    /// # Errors
    /// [`StateError`] for anything that no honest end writes.
    pub fn parse(text: &[u8]) -> Result<Self, StateError> {
        if text.is_empty() {
            return Err(StateError::NotANumber);
        }
        let mut number = 0u32;
        for byte in text {
            if !byte.is_ascii_digit() {
                return Err(StateError::NotANumber);
            }
            // Saturated numbers are out of range, whatever they were.
            let digit = u32::from(byte.wrapping_sub(b'0'));
            number = number.saturating_mul(10).saturating_add(digit);
        }
        Self::from_number(number)
    }

    /// The number of the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// What goes into the `state` node.
    pub const fn digit(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for (number, (_, state)) in (0..).zip(XenbusState::NAMED) {
            assert_eq!(state.number(), number);
            assert_eq!(XenbusState::parse(state.digit().as_bytes()), Ok(*state));
        }
        assert_eq!(XenbusState::NAMED.len(), 9);
    }

    #[test]
    fn garbage_is_no_state() {
        for text in ["", "-1", "foo", " 4", "4\n", "4\0", "+4", "0x4", "4.0"] {
            assert_eq!(
                XenbusState::parse(text.as_bytes()),
                Err(StateError::NotANumber)
            );
        }
        assert_eq!(XenbusState::parse(b"9"), Err(StateError::OutOfRange(9)));
        assert_eq!(
            XenbusState::parse(b"4294967300"),
            Err(StateError::OutOfRange(u32::MAX)),
            "2^32 + 4 is not 4"
        );
        assert_eq!(
            XenbusState::parse(&[b'9'; 4096]),
            Err(StateError::OutOfRange(u32::MAX))
        );
        assert_eq!(XenbusState::parse(b"0004"), Ok(XenbusState::Connected));
    }
}
