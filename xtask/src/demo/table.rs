//! The table at the end.

use serde_json::Value;

use super::host::Outcome;

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(f64::NAN)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("?")
}

pub(crate) fn print(outcome: &Outcome, bytes: u64, ext4: bool) {
    let Outcome {
        broker,
        backend,
        guest,
        stalls,
    } = outcome;
    println!();
    println!("{:<14} {:>8} {:>7}  sandbox", "who", "process", "domain");
    println!(
        "{:<14} {:>8} {:>7}  none: it starts the others and opens the images",
        "broker", broker, 0
    );
    for (who, said) in [("driver domain", backend), ("guest", guest)] {
        println!(
            "{:<14} {:>8} {:>7}  {}",
            who,
            said["pid"].to_string(),
            said["domid"].to_string(),
            text(said, "sandbox")
        );
    }
    let requests = number(guest, "requests");
    let seconds = number(guest, "seconds");
    println!();
    println!(
        "requests                          {requests:.0}, {} in flight at most",
        guest["depth"]
    );
    println!(
        "bytes moved                       {:.0} (copy, then both read back)",
        number(guest, "bytes")
    );
    println!(
        "throughput                        {:.0} MB/s",
        number(guest, "bytes") / seconds / 1e6
    );
    for (what, key) in [
        ("notifications sent per request", "notifications"),
        ("system calls per request", "syscalls"),
    ] {
        println!(
            "{what:<33} {:.3} guest, {:.3} driver domain",
            number(guest, key) / requests,
            number(backend, key) / number(backend, "requests")
        );
    }
    let longest = stalls.iter().max().copied().unwrap_or_default();
    println!(
        "{:<33} {} times by SIGKILL, longest stall {} ms",
        "driver domain killed",
        stalls.len(),
        longest.as_millis()
    );
    let checked = if ext4 {
        "cmp: equal, e2fsck -fn: clean"
    } else {
        "cmp: equal (no ext4 file system, so no e2fsck)"
    };
    println!("{:<33} {checked}", format!("{bytes} bytes on the disk"));
}
