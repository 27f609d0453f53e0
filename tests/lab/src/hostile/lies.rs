//! What a backend can lie about, and what its frontend has to say to that.

use ringfence_core::wire::vbd::Vdev;

/// A lie. Those up to [`State`](Self::State) are told before there is a connection, the others in the middle of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// `sector-size` is 0.
    SectorSize,
    /// `sectors` is 2^64-1.
    Sectors,
    /// `sectors` is not there.
    NoSectors,
    /// `feature-flush-cache` is `abc`.
    Flush,
    /// `feature-max-indirect-segments` is 2^32.
    Indirect,
    /// `max-ring-page-order` is -1.
    Order,
    /// `frontend` is another one's directory.
    Frontend,
    /// State 99 instead of 4.
    State,
    /// More answers than there are requests.
    Ahead,
    /// Fewer answers than before.
    Behind,
    /// The answer to a request that nobody can make.
    UnknownId,
    /// Two answers to one request.
    Twice,
    /// The answer to an operation that does not exist.
    Operation,
    /// A status that does not exist.
    Status,
    /// Any word anywhere on the ring's page, again and again.
    Noise,
    /// Requests are done, says the answer; nothing was.
    Data,
    /// No request can be done.
    Errors,
    /// No answer at all.
    Silent,
    /// No answer, but the doorbell rings without end.
    Storm,
    /// `sectors` is no number any more, then the state is 99.
    Resized,
    /// State 6 out of the blue.
    Gone,
    /// State 2 out of the blue, and on each connection after that.
    Flaps,
    /// An answer to nothing; then everything that is mapped stays so, and the state stays 4.
    Holds,
}

impl Lie {
    /// Each of them: its name, and words of what the frontend of such a disk has to say.
    pub const ALL: [(Self, &'static str, &'static str); 23] = [
        (Self::SectorSize, "sector-size", "sector-size 0 is not"),
        (Self::Sectors, "sectors", "is beyond 2^64 bytes"),
        (Self::NoSectors, "no-sectors", "sectors: no such node"),
        (Self::Flush, "flush", "feature-flush-cache: bad value"),
        (
            Self::Indirect,
            "indirect",
            "feature-max-indirect-segments: bad value",
        ),
        (Self::Order, "order", "max-ring-page-order: bad value"),
        (Self::Frontend, "frontend", "does not point back"),
        (Self::State, "state", "state is garbage"),
        (Self::Ahead, "ahead", "rsp_prod"),
        (Self::Behind, "behind", "rsp_prod"),
        (Self::UnknownId, "unknown-id", "whose slot is beyond"),
        (Self::Twice, "twice", "which is not in flight"),
        (Self::Operation, "operation", "but the request was"),
        (Self::Status, "status", "and status"),
        (Self::Noise, "noise", ""),
        (Self::Data, "data", "other bytes than were written"),
        (Self::Errors, "errors", "the backend failed the request"),
        (Self::Silent, "silent", "did not answer"),
        (Self::Storm, "storm", "did not answer"),
        (Self::Resized, "resized", "state is garbage"),
        (Self::Gone, "gone", "did not answer"),
        (Self::Flaps, "flaps", "did not answer"),
        (Self::Holds, "holds", "whose slot is beyond"),
    ];

    /// The disk that is lied about so: from the second on, as the first one's backend is honest.
    #[must_use]
    pub fn vdev(self) -> u32 {
        let nth = Self::ALL.iter().position(|(lie, ..)| *lie == self);
        let nth = nth.unwrap_or(0) + 1;
        let vdev: Option<Vdev> = format!("d{nth}p0").parse().ok();
        vdev.map_or(0, |vdev| vdev.get())
    }

    /// Requests that are answered before it is told, as if the backend were honest.
    #[must_use]
    pub const fn honest(self) -> u32 {
        match self {
            Self::Data => u32::MAX,
            _ => 8,
        }
    }

    /// The node that says something else than it should from the start, and what; `None` for not there.
    #[must_use]
    pub const fn node(self) -> Option<(&'static str, Option<&'static str>)> {
        Some(match self {
            Self::SectorSize => ("sector-size", Some("0")),
            Self::Sectors => ("sectors", Some("18446744073709551615")),
            Self::NoSectors => ("sectors", None),
            Self::Flush => ("feature-flush-cache", Some("abc")),
            Self::Indirect => ("feature-max-indirect-segments", Some("4294967296")),
            Self::Order => ("max-ring-page-order", Some("-1")),
            Self::Frontend => ("frontend", Some("/local/domain/0/device/vbd/51712")),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Lie;

    #[test]
    fn every_lie_has_a_disk_of_its_own() {
        let mut disks = Lie::ALL.map(|(lie, ..)| lie.vdev());
        assert_eq!(
            (disks[0], disks[14], disks[15]),
            (51728, 51952, 1 << 28 | 16 << 8)
        );
        disks.sort_unstable();
        assert!(disks.windows(2).all(|two| two[0] != two[1]));
    }
}
