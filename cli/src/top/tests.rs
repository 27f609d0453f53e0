use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ringfence_blkback::stats::Latency;

use super::sample::{Counters, Device, Domain, Ring, Sample};
use super::view::View;
use super::{Options, screen};

fn counters(values: &[(&str, u64)]) -> Counters {
    let values = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value));
    values.collect()
}

fn sample(requests: u64, pid: u32, restarts: u32) -> Sample {
    let domain = |domid, name: &str, kind: &str, restarts| Domain {
        domid,
        name: name.into(),
        kind: kind.into(),
        pid: Some(pid + u32::from(domid)),
        restarts,
        cpu: Some(requests * 1000),
    };
    let disk = |vdev, dev: &str, counters| Device {
        guest: 2,
        backend: 1,
        vdev,
        dev: dev.into(),
        frontend_state: 4,
        backend_state: 4,
        rings: vec![
            Ring {
                entries: 32,
                in_flight: 3,
                requests,
            };
            2
        ],
        counters,
        process: u64::from(pid),
        // A read of 16.4 to 20.48 µs is in step 17.
        reads: Some(Latency::from_counts(
            |step| {
                if step == 17 { requests } else { 0 }
            },
        )),
        writes: None,
    };
    let busy = [
        ("requests", requests),
        ("reads", requests),
        ("read_bytes", requests * 4096),
        ("notifications_sent", requests / 4),
        ("errors", 3),
    ];
    Sample {
        domains: vec![
            domain(1, "blk0", "driver-domain", restarts),
            domain(2, "web", "guest", 0),
        ],
        devices: vec![
            disk(51712, "xvda", counters(&busy)),
            Device {
                backend_state: 5,
                ..disk(51728, "xvdb", counters(&[]))
            },
        ],
    }
}

fn shown(view: &View, first: usize) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(160, 12)).unwrap();
    terminal
        .draw(|frame| screen::draw(frame, view, first))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content.chunks(usize::from(buffer.area.width));
    lines
        .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>())
        .collect()
}

#[test]
fn rates_are_what_grew_in_the_time() {
    let view = View::between(
        &sample(1000, 70, 1),
        &sample(3000, 70, 1),
        Duration::from_secs(2),
    );
    let disk = &view.devices[0];
    assert_eq!(disk.rates["reads"], 1000.0);
    assert_eq!(disk.rates["read_bytes"], 4_096_000.0);
    let read = disk.read_latency.unwrap();
    assert_eq!((read.p50, read.p99), (20.48, 20.48));
    assert_eq!(disk.write_latency, None);
    assert_eq!(
        (disk.guest_name.as_str(), disk.backend_name.as_str()),
        ("web", "blk0")
    );
    assert_eq!(disk.restarts, 1);
    assert_eq!(view.domains[0].processors, Some(0.001));
    assert!(view.devices[1].rates.is_empty());
}

#[test]
fn a_process_that_was_started_again_counts_from_nothing() {
    let view = View::between(
        &sample(1000, 70, 0),
        &sample(400, 80, 1),
        Duration::from_secs(1),
    );
    assert_eq!(view.devices[0].rates["reads"], 400.0);
    assert!(view.devices[0].read_latency.is_some());
    // It is another process: what the last one used says nothing.
    assert_eq!(view.domains[0].processors, None);
}

#[test]
fn a_disk_that_is_new_has_no_rates_yet() {
    let view = View::between(&Sample::default(), &sample(9, 1, 0), Duration::from_secs(1));
    assert!(view.devices.iter().all(|disk| disk.rates.is_empty()));
    let same = View::between(&sample(9, 1, 0), &sample(9, 1, 0), Duration::ZERO);
    assert!(same.devices[0].rates.is_empty());
}

#[test]
fn the_screen_shows_domains_and_disks() {
    let view = View::between(
        &sample(1000, 70, 0),
        &sample(3000, 70, 2),
        Duration::from_secs(1),
    );
    let lines = shown(&view, 0);
    assert!(
        lines[0].contains("2 domains, 2 disks: 2000 reads/s"),
        "{}",
        lines[0]
    );
    let words = |line: &String| {
        let words = line.split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let row = |name: &str| {
        let found = lines
            .iter()
            .map(words)
            .find(|words| words.iter().any(|word| word == name));
        found.unwrap_or_else(|| panic!("no {name} in {lines:#?}"))
    };
    assert_eq!(row("driver-domain")[..3], ["1", "blk0", "driver-domain"]);
    assert_eq!(
        row("xvda"),
        [
            "xvda", "web", "blk0", "4/4", "2", "6", "2000", "-", "8.19", "-", "20/20", "-", "0.25",
            "3", "2"
        ]
    );
    assert_eq!(row("xvdb")[3], "4/5");
    // Scrolled by one, the first is gone.
    assert!(!shown(&view, 1).iter().any(|line| line.contains("xvda")));
}

#[test]
fn the_text_has_the_same_rows() {
    let view = View::between(
        &sample(1000, 70, 0),
        &sample(3000, 70, 0),
        Duration::from_secs(1),
    );
    let text = screen::plain(&view);
    let disks = text.lines().filter(|line| line.starts_with("xvd"));
    assert_eq!(disks.count(), 2);
    assert!(text.lines().any(|line| line.starts_with("DISK    GUEST")));
}

#[test]
fn the_json_has_totals_and_rates() {
    let view = View::between(
        &sample(1000, 70, 0),
        &sample(3000, 70, 0),
        Duration::from_secs(1),
    );
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["devices"][0]["counters"]["requests"], 3000);
    assert_eq!(json["devices"][0]["rates"]["requests"], 2000.0);
    assert_eq!(json["domains"][1]["name"], "web");
}

#[test]
fn intervals_are_bounded() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let parse = |words: &[&str]| {
        let words = std::iter::once(&"top").chain(words);
        <Line as clap::Parser>::try_parse_from(words).map(|line| line.options.interval)
    };
    assert_eq!(parse(&[]).unwrap(), Duration::from_secs(1));
    assert_eq!(
        parse(&["--interval=0.5"]).unwrap(),
        Duration::from_millis(500)
    );
    for bad in ["0", "61", "-1", "nan", "x"] {
        assert!(parse(&[&format!("--interval={bad}")]).is_err(), "{bad}");
    }
    assert!(parse(&["--json"]).is_err(), "only with --once");
}
