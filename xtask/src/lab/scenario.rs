//! `tests/lab/scenarios/NAME.sh`: what its header says, and which of them share a boot.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// When a scenario runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// In every run without names.
    Ci,
    /// With `--all` only.
    All,
}

/// What a scenario needs beside the usual.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Need {
    /// Our programs.
    Ringfence,
    /// The device model in dom0, for its disk backend.
    Qdisk,
    /// The guest kernel of images/guest, as /lab/guest-image in dom0.
    GuestImage,
    /// The guest kernel of images/conformance, as /lab/agent-image in dom0.
    AgentImage,
    /// The kernel of docs/your-kernel.md, as /lab/your-kernel in dom0.
    YourKernel,
    /// GRUB as a guest, as /lab/grub-pv and /lab/grub-pvh in dom0, and /lab/vmlinuz for it to load.
    Grub,
}

/// The machine of a boot. Scenarios share a boot if they name the same one and want the same machine.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Machine {
    /// The word after `boot:`, or the scenario's own name.
    pub(crate) name: String,
    /// Arguments of QEMU.
    pub(crate) qemu: String,
    /// Arguments of Xen.
    pub(crate) xen: String,
    /// Arguments of dom0's kernel, which init finds in its environment.
    pub(crate) dom0: String,
    /// `single` or `multi`: QEMU's emulation threads.
    pub(crate) thread: Option<String>,
    pub(crate) cpus: Option<u8>,
}

/// One scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Rows of docs/STATUS.md: `PEER: FEATURE`.
    pub(crate) shows: Vec<String>,
    pub(crate) machine: Machine,
    pub(crate) when: When,
    pub(crate) limit: Duration,
    pub(crate) needs: Vec<Need>,
    pub(crate) text: String,
}

impl Scenario {
    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario = Self {
            name: name.to_owned(),
            shows: Vec::new(),
            machine: Machine::default(),
            when: When::Ci,
            limit: Duration::from_secs(60),
            needs: Vec::new(),
            text: text.to_owned(),
        };
        let mut alone = false;
        for line in text.lines().take_while(|line| line.starts_with('#')) {
            let Some((key, value)) = line.trim_start_matches(['#', ' ']).split_once(": ") else {
                continue;
            };
            let value = value.trim().to_owned();
            match key {
                "shows" if value.contains(": ") => scenario.shows.push(value),
                "shows" => bail!("`{line}` is not `# shows: PEER: FEATURE`"),
                "boot" => scenario.machine.name = value,
                "set" => {
                    scenario.when = match value.as_str() {
                        "ci" => When::Ci,
                        "all" => When::All,
                        _ => bail!("`{line}` names neither ci nor all"),
                    };
                }
                "seconds" => {
                    let seconds = value.parse();
                    scenario.limit = Duration::from_secs(seconds.with_context(|| line.to_owned())?);
                }
                "needs" => {
                    for word in value.split([' ', ',']).filter(|word| !word.is_empty()) {
                        scenario.needs.push(match word {
                            "ringfence" => Need::Ringfence,
                            "qdisk" => Need::Qdisk,
                            "guest-image" => Need::GuestImage,
                            "agent-image" => Need::AgentImage,
                            "your-kernel" => Need::YourKernel,
                            "grub" => Need::Grub,
                            _ => bail!("nobody knows what `{word}` is in `{line}`"),
                        });
                    }
                }
                "qemu" => scenario.machine.qemu = value,
                "xen" => scenario.machine.xen = value,
                "dom0" => scenario.machine.dom0 = value,
                "thread" => scenario.machine.thread = Some(value),
                "cpus" => {
                    scenario.machine.cpus = Some(value.parse().with_context(|| line.to_owned())?);
                }
                _ => continue,
            }
            alone |= matches!(key, "qemu" | "xen" | "dom0" | "thread" | "cpus");
        }
        let machine = &mut scenario.machine;
        if machine.name == "alone" || (alone && machine.name.is_empty()) {
            machine.name = name.to_owned();
        } else if machine.name.is_empty() {
            machine.name = "dom0".to_owned();
        }
        Ok(scenario)
    }
}

/// All there are, by name.
pub(crate) fn read_all(dir: &Path) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(name) = name.strip_suffix(".sh") {
            let text = fs::read_to_string(&path)?;
            let scenario = Scenario::parse(name, &text);
            scenarios.push(scenario.with_context(|| format!("in {}", path.display()))?);
        }
    }
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(scenarios)
}

/// Those of these names (a `*` at the end stands for the rest); without names those of the set.
pub(crate) fn select(all: Vec<Scenario>, names: &[String], every: bool) -> Result<Vec<Scenario>> {
    let fits = |pattern: &String, scenario: &Scenario| match pattern.strip_suffix('*') {
        Some(start) => scenario.name.starts_with(start),
        None => scenario.name == *pattern,
    };
    if let Some(name) = names.iter().find(|n| !all.iter().any(|s| fits(n, s))) {
        let known: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        bail!(
            "no scenario is called `{name}`; there are {}",
            known.join(", ")
        );
    }
    Ok(all
        .into_iter()
        .filter(|scenario| {
            if names.is_empty() {
                every || scenario.when == When::Ci
            } else {
                names.iter().any(|name| fits(name, scenario))
            }
        })
        .collect())
}

/// Those that share a boot, together.
pub(crate) fn boots(scenarios: Vec<Scenario>) -> Vec<(Machine, Vec<Scenario>)> {
    let mut boots: BTreeMap<Machine, Vec<Scenario>> = BTreeMap::new();
    for scenario in scenarios {
        let boot = boots.entry(scenario.machine.clone()).or_default();
        boot.push(scenario);
    }
    boots.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_the_body_is_not() {
        let text = "# Words that explain: nothing.\n# shows: Linux blkfront: fsck\n# boot: drv\n# set: all\n\
                    # seconds: 90\n# needs: ringfence, qdisk\n\n# seconds: 5\ntrue\n";
        let scenario = Scenario::parse("a", text).expect("parses");
        assert_eq!(scenario.shows, ["Linux blkfront: fsck"]);
        assert_eq!(scenario.machine.name, "drv");
        assert_eq!(scenario.when, When::All);
        assert_eq!(scenario.limit, Duration::from_secs(90));
        assert_eq!(scenario.needs, [Need::Ringfence, Need::Qdisk]);
        assert!(Scenario::parse("a", "# shows: fsck\n").is_err());
        assert!(Scenario::parse("a", "# set: some\n").is_err());
        assert!(Scenario::parse("a", "# needs: luck\n").is_err());
        assert!(Scenario::parse("a", "# seconds: ten\n").is_err());
    }

    #[test]
    fn the_same_word_and_machine_share_a_boot() {
        let parse = |name: &str, text: &str| Scenario::parse(name, text).expect("parses");
        let boots = boots(vec![
            parse("a", "# boot: dom0\n"),
            parse("b", ""),
            parse("c", "# boot: alone\n"),
            parse("d", "# qemu: -icount 0\n"),
            parse("e", "# dom0: store=ringfence\n# boot: store\n"),
            parse("f", "# boot: store\n# dom0: store=ringfence\n"),
            parse("g", "# boot: dom0\n# xen: sched=credit\n"),
        ]);
        let names: Vec<Vec<&str>> = boots
            .iter()
            .map(|(_, boot)| boot.iter().map(|s| s.name.as_str()).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec!["c"],
                vec!["d"],
                vec!["a", "b"],
                vec!["g"],
                vec!["e", "f"]
            ]
        );
    }

    #[test]
    fn names_select_and_must_exist() {
        let all = || {
            vec![
                Scenario::parse("disk_a", "").expect("parses"),
                Scenario::parse("disk_b", "# set: all\n").expect("parses"),
                Scenario::parse("net", "").expect("parses"),
            ]
        };
        let names = |names: &[&str], every| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let chosen = select(all(), &names, every)?;
            anyhow::Ok(chosen.into_iter().map(|s| s.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], false).expect("some"), ["disk_a", "net"]);
        assert_eq!(names(&[], true).expect("some"), ["disk_a", "disk_b", "net"]);
        assert_eq!(
            names(&["disk_*"], false).expect("some"),
            ["disk_a", "disk_b"]
        );
        assert!(names(&["disk"], false).is_err());
    }
}
