//! How long requests take, in steps of a quarter of their size: small enough for a percentile, and no division to count.

/// How many steps there are; the last, of twelve seconds and more, has no end.
pub const STEPS: usize = 96;
/// All times below this many bits of nanoseconds are one step: a microsecond.
const FIRST_BITS: u32 = 10;

/// The step that a time belongs to.
pub(super) fn step(nanoseconds: u64) -> usize {
    let Some(bits) = nanoseconds
        .checked_ilog2()
        .and_then(|bits| bits.checked_sub(FIRST_BITS))
    else {
        return 0;
    };
    let quarter = (nanoseconds >> bits.saturating_add(FIRST_BITS - 2)) & 3;
    let step = bits.saturating_mul(4).saturating_add(1);
    let step = u64::from(step).saturating_add(quarter);
    usize::try_from(step).unwrap_or(STEPS).min(STEPS - 1)
}

/// Where a step ends, in nanoseconds.
fn end(step: usize) -> u64 {
    let Some(beyond) = step.checked_sub(1) else {
        return 1 << FIRST_BITS;
    };
    let beyond = u64::try_from(beyond).unwrap_or(u64::MAX);
    let (octave, quarter) = (beyond >> 2, beyond & 3);
    let unit = u32::try_from(octave)
        .ok()
        .and_then(|octave| 1u64.checked_shl(octave.saturating_add(FIRST_BITS - 2)));
    unit.map_or(u64::MAX, |unit| {
        unit.saturating_mul(quarter.saturating_add(5))
    })
}

/// How many requests took how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency([u64; STEPS]);

impl Latency {
    /// From the number of requests in each step.
    pub fn from_counts(counts: impl FnMut(usize) -> u64) -> Self {
        Self(core::array::from_fn(counts))
    }

    /// What came since `before`, which was read earlier. Where less is counted now somebody began anew, and all of it counts.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut steps = self.0.iter().zip(&before.0);
        if steps.clone().any(|(now, then)| now < then) {
            return *self;
        }
        Self::from_counts(|_| {
            steps
                .next()
                .map_or(0, |(now, then)| now.saturating_sub(*then))
        })
    }

    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The time in nanoseconds within which so many thousandths of them were done, to a quarter. `None` if there were none.
    pub fn within(&self, thousandths: u16) -> Option<u64> {
        let count = u128::from(self.count());
        let wanted = count
            .saturating_mul(thousandths.min(1000).into())
            .div_ceil(1000);
        let mut seen = 0u128;
        let found = self.0.iter().position(|n| {
            seen = seen.saturating_add(u128::from(*n));
            seen >= wanted.max(1)
        });
        found.map(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_within_its_step() {
        let mut before = 0;
        for exponent in 0..33 {
            for part in 0..64u64 {
                let time = (1u64 << exponent) + (part << exponent) / 64;
                let step = step(time);
                assert!(time < end(step), "{time} in step {step}");
                assert!(step == 0 || time >= end(step - 1), "{time} in step {step}");
                assert!(step >= before);
                before = step;
            }
        }
        assert_eq!(step(0), 0);
        assert_eq!(step(u64::MAX), STEPS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_counted() {
        let times: Vec<u64> = (1..=1000).map(|n| n * 1000).collect();
        let latency = Latency::from_counts(|at| {
            times.iter().filter(|time| step(**time) == at).count() as u64
        });
        assert_eq!(latency.count(), 1000);
        for (thousandths, exact) in [(500, 500_000), (990, 990_000), (1000, 1_000_000)] {
            let found = latency.within(thousandths).expect("there are some");
            assert!(
                (exact..=exact * 5 / 4).contains(&found),
                "{thousandths}: {found}"
            );
        }
        assert_eq!(latency.since(&latency).within(500), None);
        let more = Latency::from_counts(|at| latency.0[at] + u64::from(at == 40));
        assert_eq!(more.since(&latency).count(), 1);
        assert_eq!(latency.since(&more), latency, "begun anew");
    }
}
