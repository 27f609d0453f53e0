//! The public headers of Xen, one file each: layouts, constants, and nothing else.
//!
//! Every struct is plain bytes (zerocopy), its padding is spelt out as fields, and its size and offsets are asserted beside
//! it; `cargo xtask abi` compares all of them with a C compiler's idea of the headers.

/// Asserts at compile time the size of a wire struct and the offset of each field it names.
macro_rules! layout {
    ($ty:ty, $size:literal { $($field:ident @ $offset:literal),+ $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)+
        };
    };
}

/// An open enum of the wire: any number may arrive, the known ones have names.
macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident($raw:ty) { $($(#[$vdoc:meta])* $konst:ident = $value:expr, $c:literal;)+ }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            $($(#[$vdoc])* pub const $konst: Self = Self($value);)+

            /// Every value the header names, with the header's own name for it.
            pub const NAMED: &'static [(&'static str, Self)] = &[$(($c, Self::$konst)),+];

            /// The header's name of this value, or `None` for a number it does not know.
            pub fn name(self) -> Option<&'static str> {
                Self::NAMED.iter().find(|(_, value)| *value == self).map(|(name, _)| *name)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{} {}", stringify!($name), self.0),
                }
            }
        }
    };
}

pub mod blkif;
pub mod event_channel;
pub mod grant_table;
pub mod vbd;
pub mod xenbus;
pub mod xs_wire;
