//! Checks that `cargo xtask weaken` takes away one at a time, to see that their tests notice. Anywhere else none is, and nothing of
//! this is in the program.

/// Whether this check is taken away: in a build for `cargo xtask weaken` if the environment's `RINGFENCE_WEAKEN` names it.
#[cfg(not(ringfence_weaken))]
#[doc(hidden)]
#[macro_export]
macro_rules! weakened {
    ($name:literal) => {
        false
    };
}

/// Whether this check is taken away: in a build for `cargo xtask weaken` if the environment's `RINGFENCE_WEAKEN` names it.
#[cfg(ringfence_weaken)]
#[doc(hidden)]
#[macro_export]
macro_rules! weakened {
    ($name:literal) => {
        $crate::weaken::is($name)
    };
}

#[cfg(ringfence_weaken)]
mod chosen {
    extern crate std;

    use std::string::String;
    use std::sync::OnceLock;

    /// Whether it is the one that this process was started without.
    pub fn is(name: &str) -> bool {
        static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| std::env::var("RINGFENCE_WEAKEN").ok());
        chosen.as_deref() == Some(name)
    }
}

#[cfg(ringfence_weaken)]
pub use chosen::is;
