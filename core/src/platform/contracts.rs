//! The numbered rules that drivers rely on. The conformance suite (`tests/src/conformance`) has one test per number, runs it on
//! every platform, and fails when a number here has no test or a test has no number here.

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// `G` grants, `E` event channels, `X` XenStore, `D` life and death of domains and processes.
    pub id: &'static str,
    /// What holds.
    pub rule: &'static str,
}

const fn contract(id: &'static str, rule: &'static str) -> Contract {
    Contract { id, rule }
}

/// All of them.
pub const CONTRACTS: &[Contract] = &[
    contract(
        "G1",
        "alloc gives a page of zeros, also when the page was used before",
    ),
    contract(
        "G2",
        "what one side writes into a granted page the other reads, both ways",
    ),
    contract(
        "G3",
        "only the domain named as peer can map or copy a granted page",
    ),
    contract(
        "G4",
        "a page granted read-only cannot be mapped for writing nor be the target of a copy",
    ),
    contract(
        "G5",
        "a reference that was never granted, or is out of range, is refused as bad_gntref; a batch with one bad reference maps nothing",
    ),
    contract(
        "G6",
        "try_revoke fails while the page is mapped, changes nothing then, and succeeds once it is unmapped; where mappings cannot be observed it fails always",
    ),
    contract(
        "G7",
        "after a try_revoke that succeeded the reference can neither be mapped nor copied; nor, once it is unmapped, that of a page that was dropped",
    ),
    contract(
        "G8",
        "a page dropped while the peer has it mapped is not given out again before the peer unmaps it",
    ),
    contract(
        "G9",
        "a batched copy sets the status of every element: a bad element fails alone, and offset + length past the page is bad_copy_arg",
    ),
    contract(
        "G10",
        "one page can be mapped twice, and counts as mapped until both are dropped",
    ),
    contract(
        "E1",
        "a port allocated for a peer can be bound by it, and a notification then reaches the other end, both ways",
    ),
    contract(
        "E2",
        "bind leaves the binder's end pending once, so that a backend looks at its ring without being rung",
    ),
    contract(
        "E3",
        "notifications merge: any number before take_pending give one true, at most one more after unmask, and then false",
    ),
    contract(
        "E4",
        "a port that was allocated for another domain, does not exist, or is bound already is refused",
    ),
    contract(
        "E5",
        "when the binder closes its end, the allocator's port is unbound again and the same peer can bind it again; notify on it meanwhile is harmless",
    ),
    contract(
        "E6",
        "after the allocator closes a port it cannot be bound, and the number may be used again",
    ),
    contract(
        "X1",
        "a value written is read back byte for byte, up to the payload limit",
    ),
    contract(
        "X2",
        "a watch fires once when it is set and once or more after each change, never silently less",
    ),
    contract(
        "X3",
        "a transaction that conflicts with another write ends with a retry, and its writes are then not visible",
    ),
    contract(
        "X4",
        "a domain cannot write another domain's nodes; a missing node and a denied one are told apart",
    ),
    contract(
        "D1",
        "when a domain's process dies, its mappings end and its bound ports go back to unbound",
    ),
    contract(
        "D2",
        "when a domain's process dies, the pages it granted and the ports it allocated stay, and the next process of the domain has them; where they do not outlive it, they end with it",
    ),
    contract(
        "D3",
        "the next process of the same domain can bind the same remote port and map the same references again",
    ),
    contract(
        "D4",
        "after a domain is destroyed nothing of it can be mapped or bound, and @releaseDomain fires",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_used_once() {
        for (i, a) in CONTRACTS.iter().enumerate() {
            assert!(
                CONTRACTS[..i].iter().all(|b| b.id != a.id),
                "{} is there twice",
                a.id
            );
        }
    }
}
