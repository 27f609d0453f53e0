//! What a driver domain's process can reach, tried from inside the real process, confined and not.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use ringfence_core::platform::{Access, Granted as _, Platform as _};
use ringfence_hosted::admin::{DomainKind, Exit};
use ringfence_tests::hosted::Host;

/// Runs the probe; its report and the outcome of each attempt.
fn probe(sandbox: &str) -> (String, BTreeMap<String, String>) {
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")));
    let guest = host.peer("guest", DomainKind::Guest);
    let other = host.peer("blk1", DomainKind::DriverDomain);
    let page = guest
        .platform
        .alloc(other.domid, Access::ReadWrite)
        .unwrap();
    let file = host.path("secret");
    std::fs::write(&file, "nobody's business").unwrap();
    let socket = host.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let name = format!("ringfence-probe-{}-{sandbox}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let domains = host.client().domains().unwrap();
    let pid = domains
        .iter()
        .find(|domain| domain.name == "guest")
        .and_then(|domain| domain.pid);
    let argv = [
        "probe",
        sandbox,
        &std::process::id().to_string(),
        &pid.unwrap().to_string(),
        file.to_str().unwrap(),
        socket.to_str().unwrap(),
        &name,
        &guest.domid.to_string(),
        &page.grant_ref().to_string(),
    ];
    let (mut output, theirs) = std::io::pipe().unwrap();
    let streams = (std::io::stdin(), std::io::stderr());
    let client = host.client();
    let domain = Host::domain("blk0", DomainKind::DriverDomain, &argv);
    let streams = [streams.0.as_fd(), theirs.as_fd(), streams.1.as_fd()];
    let domid = client.create_domain(domain, streams).unwrap();
    let exit = client.wait_exit(&domid.to_string()).unwrap();
    assert_eq!(exit, Exit::Code(0));
    // The broker keeps the streams for the next process.
    client.destroy_domain("blk0").unwrap();
    drop(theirs);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let mut lines: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect();
    let report = lines.remove("report").unwrap();
    (report, lines)
}

#[test]
fn a_confined_process_reaches_nothing() {
    let (report, attempts) = probe("on");
    println!("{report}");
    assert!(report.contains("seccomp full"), "{report}");
    for (name, outcome) in &attempts {
        println!("{name}: {outcome}");
        assert!(outcome.starts_with("denied"), "{name}: {outcome}");
    }
    let ring = usize::from(report.contains("io_uring restricted"));
    assert_eq!(attempts.len(), 12 + ring);
}

/// The control: the same attempts succeed in a process that is not confined, so that it is the sandbox that stops them.
#[test]
fn the_same_process_unconfined_reaches_all_but_foreign_pages() {
    let (report, attempts) = probe("off");
    assert!(report.contains("landlock off, seccomp off"), "{report}");
    assert_eq!(attempts.len(), 12);
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let yama =
        scope.is_ok_and(|scope| scope.trim() != "0") && !rustix::process::geteuid().is_root();
    let no_ring = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let no_ring = no_ring.is_ok_and(|disabled| disabled.trim() != "0");
    for (name, outcome) in &attempts {
        println!("{name}: {outcome}");
        let traced = ["memory", "trace", "arena"]
            .iter()
            .any(|word| name.contains(word));
        if name == "map another pair's page" {
            assert!(outcome.starts_with("denied"), "{name}: {outcome}");
        } else if yama && traced {
            println!("SKIP {name}: yama lets nobody trace");
        } else if no_ring && name.contains("io_uring") {
            println!("SKIP {name}: this kernel has no io_uring");
        } else {
            assert_eq!(outcome, "REACHED", "{name}");
        }
    }
}
