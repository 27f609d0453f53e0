//! Typed values of nodes.

use core::fmt::Write as _;

use super::error::{FieldError, StoreError};
use super::path::join;
use super::{Store, Tx, number};

/// A type that a node's text is parsed into. Total: any bytes give a value or `None`.
pub trait Field: Sized {
    /// The value of `text`, which has no NUL at its end.
    fn parse(text: &[u8]) -> Option<Self>;
}

macro_rules! unsigned_fields {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn parse(text: &[u8]) -> Option<Self> {
                number::unsigned(text)?.try_into().ok()
            }
        }
    )*};
}
unsigned_fields!(u8, u16, u32, u64);

/// `0` or `1`, as every `feature-*` node has it.
impl Field for bool {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"0" => Some(false),
            b"1" => Some(true),
            _ => None,
        }
    }
}

/// Text of at most `N` bytes.
impl<const N: usize> Field for heapless::String<N> {
    fn parse(text: &[u8]) -> Option<Self> {
        core::str::from_utf8(text).ok()?.try_into().ok()
    }
}

/// Bytes of a node that [`StoreExt`] looks at: no field of a driver's is longer.
const FIELD_MAX: usize = 512;

/// Typed reads and writes of `<dir>/<field>` on every [`Store`].
///
/// One NUL at the end of a value is taken off: some peers write it.
pub trait StoreExt: Store {
    /// Reads a field that must be there.
    fn read_field<T: Field>(
        &mut self,
        tx: Tx,
        dir: &str,
        field: &'static str,
    ) -> Result<T, FieldError> {
        let path = join(dir, field).map_err(|error| FieldError::new(field, error))?;
        let mut buf = [0u8; FIELD_MAX];
        let text = match self.read(tx, &path, &mut buf) {
            Ok(text) => text,
            Err(StoreError::TooLong { .. }) => {
                return Err(FieldError::garbage(field, b"(too long)"));
            }
            Err(error) => return Err(FieldError::new(field, error)),
        };
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        T::parse(text).ok_or_else(|| FieldError::garbage(field, text))
    }

    /// Reads a field that may be missing.
    fn read_opt<T: Field>(
        &mut self,
        tx: Tx,
        dir: &str,
        field: &'static str,
    ) -> Result<Option<T>, FieldError> {
        match self.read_field(tx, dir, field) {
            Ok(value) => Ok(Some(value)),
            Err(FieldError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an unsigned 32-bit number.
    fn read_u32(&mut self, tx: Tx, dir: &str, field: &'static str) -> Result<u32, FieldError> {
        self.read_field(tx, dir, field)
    }

    /// Reads an unsigned 64-bit number.
    fn read_u64(&mut self, tx: Tx, dir: &str, field: &'static str) -> Result<u64, FieldError> {
        self.read_field(tx, dir, field)
    }

    /// Reads `<dir>/state` as its raw number; whoever knows the states judges it.
    fn read_state(&mut self, tx: Tx, dir: &str) -> Result<u32, FieldError> {
        self.read_field(tx, dir, "state")
    }

    /// Writes `<dir>/<field>` as text.
    fn write_str(&mut self, tx: Tx, dir: &str, field: &str, value: &str) -> Result<(), StoreError> {
        self.write(tx, &join(dir, field)?, value.as_bytes())
    }

    /// Writes `<dir>/<field>` as a decimal number.
    fn write_u32(&mut self, tx: Tx, dir: &str, field: &str, value: u32) -> Result<(), StoreError> {
        self.write_u64(tx, dir, field, value.into())
    }

    /// Writes `<dir>/<field>` as a decimal number.
    fn write_u64(&mut self, tx: Tx, dir: &str, field: &str, value: u64) -> Result<(), StoreError> {
        let mut text = heapless::String::<20>::new();
        // 2^64 has twenty digits: it always fits.
        let _ = write!(text, "{value}");
        self.write(tx, &join(dir, field)?, text.as_bytes())
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
