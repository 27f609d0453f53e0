//! What a configuration puts between a guest and its disk, in words.
//!
//! | key | value | meaning |
//! |---|---|---|
//! | `throttle.bps`, `.bps-read`, `.bps-write` | bytes | at most so many bytes a second, of all, of reads, of writes |
//! | `throttle.iops`, `.iops-read`, `.iops-write` | number | at most so many requests a second |
//! | each of these with `-burst` after it | the same | so much may come at once after a quiet time |
//! | `delay`, `delay.jitter` | time | every request waits so long, and up to so much longer |
//! | `fault.ops` | `read+write+flush+discard` | which requests may fail; reads and writes |
//! | `fault.sectors` | `8` or `8-15` | those that touch these sectors of 512 bytes |
//! | `fault.every`, `fault.count` | number | every so manieth; the first so many only |
//! | `fault.probability` | 0 to 1 | so many of them |
//! | `fault.seed` | number | another row of dice, also of `delay.jitter` |
//! | `fault.errno` | number | the error, 5 (`EIO`) |
//! | `fault.crash` | `on`, `off` | ends the process instead, to try what restarts promise |
//! | `trace` | `on`, `off` | tells of every request |
//! | `wait` | `block`, `spin`, `spin:200us`, `poll` | how the disk's rings are waited for, if not as those of the process are |
//! | `sectors` | `linux`, `freebsd`, `qemu`, `mini-os` | how the frontend counts sectors larger than 512 bytes, see [`units`](ringfence_core::wire::blkif::units); `linux` |
//!
//! Bytes may end in `K`, `M`, `G` or `T` (powers of 1024), a time in `us`, `ms` or `s`.

use std::boxed::Box;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::string::String;
use std::time::Duration;

use ringfence_core::wire::blkif::Convention;
use rustix::io::Errno;
use thiserror::Error;

use super::crash::Crash;
use super::delay::{Delay, Delays};
use super::fault::{Fault, Faults, Ops};
use super::throttle::{Limit, Limits, Rate, Throttle};
use super::trace::Trace;
use super::{DiskIo, ReadOnly};
use crate::service::Waiting;

/// Why a word of a configuration makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// No such key.
    #[error("unknown key '{key}'")]
    Key {
        /// As it was written.
        key: String,
    },
    /// A key that can have no such value.
    #[error("{key} '{value}': expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// As it was written.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// A burst of something that has no limit.
    #[error("{key} needs {limit}")]
    Burst {
        /// The key of the burst.
        key: String,
        /// The key of the limit.
        limit: String,
    },
}

/// The keys that were given, in their order, each with a value that makes sense.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layers {
    words: Vec<(String, String)>,
}

/// What the words say.
#[derive(Default)]
struct Plan {
    limits: Limits,
    delays: Delays,
    faults: Option<Faults>,
    seed: u64,
    crash: bool,
    trace: bool,
    waiting: Option<Waiting>,
    sectors: Convention,
}

impl Layers {
    /// Whether a key is one of these at all.
    pub fn knows(key: &str) -> bool {
        ["throttle.", "delay.", "fault."]
            .iter()
            .any(|prefix| key.starts_with(prefix))
            || matches!(key, "delay" | "trace" | "wait" | "sectors")
    }

    /// Adds a word. A key that is there already is replaced.
    ///
    /// # Errors
    /// The key or its value makes no sense; nothing is changed then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), LayerError> {
        Plan::default().take(key, value)?;
        self.words.retain(|(known, _)| known != key);
        self.words.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn plan(&self) -> Result<Plan, LayerError> {
        let mut plan = Plan::default();
        // A burst belongs to a limit that may come after it.
        let (bursts, others): (Vec<_>, Vec<_>) = self
            .words
            .iter()
            .partition(|(key, _)| key.ends_with("-burst"));
        for (key, value) in others.into_iter().chain(bursts) {
            plan.take(key, value)?;
            let limit = key.strip_suffix("-burst");
            if let Some(limit) = limit
                && plan.rate(limit).is_some_and(|rate| rate.is_none())
            {
                return Err(LayerError::Burst {
                    key: key.clone(),
                    limit: limit.to_owned(),
                });
            }
        }
        Ok(plan)
    }

    /// How the disk is waited for, if that was said.
    pub fn waiting(&self) -> Option<Waiting> {
        self.plan().ok()?.waiting
    }

    /// How the frontend counts sectors.
    pub fn sectors(&self) -> Convention {
        self.plan().map(|plan| plan.sectors).unwrap_or_default()
    }

    /// Checks what only all words together can show.
    ///
    /// # Errors
    /// A burst without its limit.
    pub fn check(&self) -> Result<(), LayerError> {
        self.plan().map(|_| ())
    }

    /// Puts all that was asked for on top of `disk`, which `name` stands for in what is traced.
    ///
    /// # Errors
    /// No descriptors left for timers. What [`check`](Self::check) refuses is not done.
    pub fn wrap(
        &self,
        disk: Box<dyn DiskIo>,
        read_only: bool,
        name: &str,
    ) -> Result<Box<dyn DiskIo>, Errno> {
        let mut disk = disk;
        if read_only && !disk.geometry().read_only {
            disk = Box::new(ReadOnly::new(disk));
        }
        let plan = self.plan().map_err(|_| Errno::INVAL)?;
        if let Some(mut faults) = plan.faults {
            faults.seed = plan.seed;
            disk = match plan.crash {
                true => Box::new(Crash::new(disk, faults)),
                false => Box::new(Fault::new(disk, faults)),
            };
        }
        if plan.delays != Delays::default() {
            let seed = plan.seed;
            disk = Box::new(Delay::new(
                disk,
                Delays {
                    seed,
                    ..plan.delays
                },
            )?);
        }
        if plan.limits != Limits::default() {
            disk = Box::new(Throttle::new(disk, plan.limits)?);
        }
        if plan.trace {
            disk = Box::new(Trace::new(disk, name.to_owned()));
        }
        Ok(disk)
    }
}

impl Plan {
    fn rate(&mut self, key: &str) -> Option<&mut Option<Rate>> {
        let (kind, direction) = match key.strip_prefix("throttle.")?.split_once('-') {
            Some((kind, direction)) => (kind, direction),
            None => (key.strip_prefix("throttle.")?, "total"),
        };
        let limit: &mut Limit = match direction {
            "total" => &mut self.limits.total,
            "read" => &mut self.limits.read,
            "write" => &mut self.limits.write,
            _ => return None,
        };
        match kind {
            "bps" => Some(&mut limit.bytes),
            "iops" => Some(&mut limit.requests),
            _ => None,
        }
    }

    fn faults(&mut self) -> &mut Faults {
        self.faults.get_or_insert_default()
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), LayerError> {
        let bad = |expected| LayerError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let number = || value.parse().map_err(|_| bad("a number"));
        let positive = || match value.parse() {
            Ok(0) | Err(_) => Err(bad("a number of at least 1")),
            Ok(number) => Ok(number),
        };
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(bad("on or off")),
        };
        let time = || time(value).ok_or_else(|| bad("a time, as in 5ms"));
        match key {
            "delay" => self.delays.least = time()?,
            "delay.jitter" => self.delays.jitter = time()?,
            "fault.ops" => {
                self.faults().ops =
                    ops(value).ok_or_else(|| bad("read, write, flush, discard with + between"))?;
            }
            "fault.sectors" => {
                let range = range(value).ok_or_else(|| bad("a sector or a range, as in 8-15"))?;
                self.faults().sectors = Some(range);
            }
            "fault.every" => self.faults().every = positive()?,
            "fault.count" => self.faults().count = Some(number()?),
            "fault.probability" => {
                let part = value
                    .parse()
                    .ok()
                    .filter(|part: &f64| (0.0..=1.0).contains(part));
                let part = part.ok_or_else(|| bad("a number from 0 to 1"))?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0 to 1"
                )]
                let per_million = (part * 1e6).round() as u32;
                self.faults().per_million = per_million;
            }
            "fault.seed" => self.seed = number()?,
            "fault.errno" => {
                let errno = i32::try_from(positive()?).map_err(|_| bad("an error number"))?;
                self.faults().errno = errno;
            }
            "fault.crash" => {
                self.crash = switch()?;
                if self.crash {
                    self.faults();
                }
            }
            "trace" => self.trace = switch()?,
            "wait" => {
                let expected = "block, poll, spin, or spin and a time, as in spin:200us";
                self.waiting = Some(value.parse().map_err(|_| bad(expected))?);
            }
            "sectors" => {
                let expected = "linux, freebsd, qemu or mini-os";
                self.sectors = value.parse().map_err(|_| bad(expected))?;
            }
            _ => self.limit(key, value)?,
        }
        Ok(())
    }

    fn limit(&mut self, key: &str, value: &str) -> Result<(), LayerError> {
        let (limit, burst) = match key.strip_suffix("-burst") {
            Some(limit) => (limit, true),
            None => (key, false),
        };
        let Some(rate) = self.rate(limit) else {
            return Err(LayerError::Key {
                key: key.to_owned(),
            });
        };
        let amount = bytes(value).ok_or_else(|| LayerError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected: "a number, as in 100 or 4M",
        })?;
        match (burst, rate) {
            (true, Some(rate)) => rate.burst = Some(amount),
            // Whether there is a limit is for the whole to say.
            (true, None) => {}
            (false, rate) => {
                // As other tools have it, 0 is no limit.
                *rate = NonZeroU64::new(amount).map(|per_second| Rate {
                    per_second,
                    burst: None,
                });
            }
        }
        Ok(())
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'K' | 'k') => (text.get(..at)?, 1 << 10),
        (at, 'M' | 'm') => (text.get(..at)?, 1 << 20),
        (at, 'G' | 'g') => (text.get(..at)?, 1 << 30),
        (at, 'T' | 't') => (text.get(..at)?, 1 << 40),
        _ => (text, 1u64),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A number with `us`, `ms` or `s` after it.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let units = [("us", 1), ("ms", 1000), ("s", 1_000_000u64)];
    let (digits, unit) = units
        .into_iter()
        .find_map(|(unit, micros)| Some((text.strip_suffix(unit)?, micros)))?;
    let micros = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    Some(Duration::from_micros(micros))
}

fn ops(text: &str) -> Option<Ops> {
    text.split('+').try_fold(Ops::default(), |mut ops, word| {
        *match word {
            "read" => &mut ops.read,
            "write" => &mut ops.write,
            "flush" => &mut ops.flush,
            "discard" => &mut ops.discard,
            _ => return None,
        } = true;
        Some(ops)
    })
}

fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok()?..=last.parse().ok()?;
    (!range.is_empty()).then_some(range)
}

/// `key=value`, with commas between.
impl FromStr for Layers {
    type Err = LayerError;

    fn from_str(text: &str) -> Result<Self, LayerError> {
        let mut layers = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            layers.set(key, value)?;
        }
        layers.check()?;
        Ok(layers)
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.words.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    fn plan(text: &str) -> Plan {
        text.parse::<Layers>().expect(text).plan().expect(text)
    }

    #[test]
    fn limits_in_words() {
        let limits = plan("throttle.bps-burst=8M,throttle.bps=4M,throttle.iops-write=100").limits;
        let rate = |per_second, burst| {
            let per_second = NonZeroU64::new(per_second)?;
            Some(Rate { per_second, burst })
        };
        assert_eq!(limits.total.bytes, rate(4 << 20, Some(8 << 20)));
        assert_eq!(limits.write.requests, rate(100, None));
        assert_eq!(
            (limits.read, limits.total.requests),
            (Limit::default(), None)
        );
        assert_eq!(plan("throttle.bps=0").limits, Limits::default());
    }

    #[test]
    fn faults_and_delays_in_words() {
        let text = "fault.ops=write+flush,fault.sectors=8-15,fault.probability=0.25,fault.seed=9,delay=5ms";
        let plan = plan(text);
        let faults = plan.faults.expect("faults");
        assert_eq!(
            (faults.ops.read, faults.ops.write, faults.ops.flush),
            (false, true, true)
        );
        assert_eq!(
            (faults.sectors, faults.per_million),
            (Some(8..=15), 250_000)
        );
        assert_eq!(
            (plan.seed, plan.delays.least),
            (9, Duration::from_millis(5))
        );
        assert_eq!(text.parse::<Layers>().expect(text).to_string(), text);
    }

    #[test]
    fn a_disk_may_be_waited_for_in_another_way() {
        let layers = |text: &str| text.parse::<Layers>().expect(text);
        assert_eq!(layers("delay=5ms").waiting(), None);
        assert_eq!(layers("delay=5ms,wait=poll").waiting(), Some(Waiting::Poll));
        assert_eq!(layers("wait=spin").waiting(), Some(Waiting::SPIN));
    }

    #[test]
    fn a_frontend_may_count_sectors_in_another_way() {
        let layers = |text: &str| text.parse::<Layers>().expect(text);
        assert_eq!(layers("delay=5ms").sectors(), Convention::Linux);
        for convention in Convention::ALL {
            let text = format!("trace=on,sectors={convention}");
            assert_eq!(layers(&text).sectors(), convention);
            assert_eq!(layers(&text).to_string(), text);
        }
    }

    #[test]
    fn every_refusal_names_key_and_value() {
        for (text, says) in [
            (
                "throttle.bps=fast",
                "throttle.bps 'fast': expected a number, as in 100 or 4M",
            ),
            ("throttle.bytes=1", "unknown key 'throttle.bytes'"),
            (
                "throttle.iops-burst=1",
                "throttle.iops-burst needs throttle.iops",
            ),
            ("delay=5", "delay '5': expected a time, as in 5ms"),
            (
                "fault.sectors=9-8",
                "fault.sectors '9-8': expected a sector or a range, as in 8-15",
            ),
            (
                "fault.probability=1.5",
                "fault.probability '1.5': expected a number from 0 to 1",
            ),
            (
                "fault.every=0",
                "fault.every '0': expected a number of at least 1",
            ),
            ("fault.crash=yes", "fault.crash 'yes': expected on or off"),
            ("trace", "trace '': expected on or off"),
            (
                "sectors=4096",
                "sectors '4096': expected linux, freebsd, qemu or mini-os",
            ),
            (
                "wait=spin:50",
                "wait 'spin:50': expected block, poll, spin, or spin and a time, as in spin:200us",
            ),
        ] {
            let error = text.parse::<Layers>().expect_err(text);
            assert_eq!(error.to_string(), says);
        }
    }
}
