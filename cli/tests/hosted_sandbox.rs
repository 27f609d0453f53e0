//! What the process of a driver domain can reach, as `ringfence driver-domain --probe-sandbox` finds it from inside.

#[expect(dead_code, reason = "serves no disks")]
mod domains;

use domains::{Host, output_text};

/// What is tried without a ring.
const ATTEMPTS: usize = 12;

fn outcomes(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with("sandbox: "))
        .filter_map(|line| line.split_once("  "))
        .map(|(name, outcome)| (name, outcome.trim()))
        .collect()
}

#[test]
fn the_process_of_a_driver_domain_reaches_nothing() {
    let host = Host::start();
    let output = host.ringfence(&["driver-domain", "blk0", "--probe-sandbox"]);
    let text = output_text(&output);
    assert!(output.status.success(), "{text}");
    let report = text.lines().find(|line| line.starts_with("sandbox: "));
    let report = report.unwrap_or_else(|| panic!("no report:\n{text}"));
    assert!(report.contains("seccomp full"), "{report}");
    let ring = usize::from(report.contains("io_uring restricted"));
    let outcomes = outcomes(&text);
    assert_eq!(outcomes.len(), ATTEMPTS + ring, "{text}");
    for (name, outcome) in outcomes {
        assert!(outcome.starts_with("denied"), "{name}: {outcome}");
    }
}

/// The control: without the sandbox the same attempts succeed, and the command says so with its status.
#[test]
fn without_its_sandbox_it_reaches_them() {
    let host = Host::start();
    let output = host.ringfence(&[
        "driver-domain",
        "blk0",
        "--probe-sandbox",
        "--sandbox",
        "off",
    ]);
    let text = output_text(&output);
    assert!(!output.status.success(), "{text}");
    let outcomes = outcomes(&text);
    for name in [
        "open a foreign file",
        "kill a peer",
        "execute a program",
        "connect to a foreign socket",
        "connect to an abstract socket",
    ] {
        let outcome = outcomes.iter().find(|(tried, _)| *tried == name);
        assert_eq!(outcome, Some(&(name, "REACHED")), "{text}");
    }
}
