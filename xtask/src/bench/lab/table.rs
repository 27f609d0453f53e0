//! The figures, out of the lines `COST BACKEND {...}` of a boot's console.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// Instructions: of one run, or per request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// From the start to the end, idle or not.
    pub(crate) elapsed: f64,
    /// Of the guest's domain.
    pub(crate) guest: f64,
    /// Of the backend's domain.
    pub(crate) dom0: f64,
    /// Of the backend's process or kernel thread in it.
    pub(crate) process: f64,
}

impl Cost {
    fn read(line: &Value) -> Result<Self> {
        let field = |name: &str| {
            line[name]
                .as_f64()
                .with_context(|| format!("no {name} in {line}"))
        };
        Ok(Self {
            elapsed: field("machine")?,
            guest: field("guest")?,
            dom0: field("dom0")?,
            process: field("process")?,
        })
    }

    /// Of the whole machine, but for when it had nothing to do: fio looks only every ten milliseconds whether its thread has
    /// ended.
    pub(crate) fn machine(&self) -> f64 {
        self.guest + self.dom0
    }

    /// Of a request, from two runs of so many each.
    fn per_request(few: (f64, Self), many: (f64, Self)) -> Self {
        let per = |of: fn(&Self) -> f64| (of(&many.1) - of(&few.1)) / (many.0 - few.0);
        Self {
            elapsed: per(|cost| cost.elapsed),
            guest: per(|cost| cost.guest),
            dom0: per(|cost| cost.dom0),
            process: per(|cost| cost.process),
        }
    }
}

/// A load: what, and how many requests are open at a time.
pub(crate) type Load = (String, u32);

/// What was measured of one backend.
#[derive(Default)]
pub(crate) struct Backend {
    pub(crate) name: String,
    /// What the guest's kernel said about the disk.
    pub(crate) frontend: String,
    pub(crate) costs: BTreeMap<Load, Cost>,
    /// The counters of our own process, of all loads together.
    pub(crate) served: Option<Value>,
}

/// One run, in the order in which it was measured.
pub(crate) struct Table {
    pub(crate) backends: Vec<Backend>,
}

impl Table {
    /// Out of a boot's log.
    pub(crate) fn read(log: &str) -> Result<Self> {
        let mut backends: Vec<Backend> = Vec::new();
        let mut few: BTreeMap<(String, Load), (f64, Cost)> = BTreeMap::new();
        for line in log.lines() {
            // `[ 12.34] COST name {...}`; the shell's trace has a `+` there.
            let text = line.split_once("] ").map_or(line, |(_, text)| text);
            let Some((name, value)) = text
                .strip_prefix("COST ")
                .and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let value: Value =
                serde_json::from_str(value).with_context(|| format!("cannot read `{line}`"))?;
            let known = backends.iter().position(|backend| backend.name == name);
            let position = known.unwrap_or(backends.len());
            if known.is_none() {
                backends.push(Backend {
                    name: name.to_owned(),
                    ..Backend::default()
                });
            }
            let backend = &mut backends[position];
            if let Some(frontend) = value["frontend"].as_str() {
                backend.frontend = frontend.trim().to_owned();
            } else if let Some(served) = value.get("served") {
                backend.served = Some(served.clone());
            } else {
                let (load, count) = words(&value)?;
                let cost = (count, Cost::read(&value)?);
                match few.remove(&(name.to_owned(), load.clone())) {
                    Some(before) if before.0 < cost.0 => {
                        backend.costs.insert(load, Cost::per_request(before, cost));
                    }
                    Some(before) => bail!("{line}: not more than {} before", before.0),
                    None => {
                        few.insert((name.to_owned(), load), cost);
                    }
                }
            }
        }
        Ok(Self { backends })
    }

    /// The loads, and of each what the first backend needed.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (&Load, &Cost)> {
        self.backends
            .first()
            .into_iter()
            .flat_map(|backend| &backend.costs)
    }

    /// The largest difference from another run, of what the whole machine needed, as a part of it.
    pub(crate) fn spread(&self, other: &Self) -> Result<f64> {
        let mut spread: f64 = 0.0;
        for backend in &self.backends {
            let twin = other.backends.iter().find(|twin| twin.name == backend.name);
            for (load, cost) in &backend.costs {
                let again = twin.and_then(|twin| twin.costs.get(load));
                let again = again.with_context(|| {
                    format!("{}: {load:?} was measured once only", backend.name)
                })?;
                spread = spread.max((again.machine() / cost.machine() - 1.0).abs());
            }
        }
        Ok(spread)
    }

    /// All of it.
    pub(crate) fn json(&self) -> Value {
        let backends = self.backends.iter().map(|backend| {
            let costs: Vec<Value> = backend
                .costs
                .iter()
                .map(|((load, depth), cost)| {
                    json!({
                        "load": load, "depth": depth, "machine": cost.machine().round(), "elapsed": cost.elapsed.round(), "guest": cost.guest.round(),
                        "backend_domain": cost.dom0.round(), "backend_process": cost.process.round(),
                    })
                })
                .collect();
            json!({
                "backend": backend.name, "frontend": backend.frontend, "instructions_per_request": costs,
                "served": backend.served,
            })
        });
        backends.collect()
    }
}

/// `read4k 32 5000`: the load and how many requests.
fn words(value: &Value) -> Result<(Load, f64)> {
    let text = value["load"].as_str().unwrap_or_default();
    let words: Vec<&str> = text.split(' ').collect();
    let [load, depth, count] = words[..] else {
        bail!("{value} names no load");
    };
    Ok(((load.to_owned(), depth.parse()?), count.parse()?))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (load, base) in self.loads() {
            writeln!(f, "\ninstructions per {}", title(load))?;
            writeln!(
                f,
                "{:<20} {:>9} {:>7} {:>9} {:>15} {:>12}",
                "backend", "machine", "ratio", "guest", "backend domain", "its process"
            )?;
            for backend in &self.backends {
                let Some(cost) = backend.costs.get(load) else {
                    continue;
                };
                writeln!(
                    f,
                    "{:<20} {:>9.0} {:>6.2}x {:>9.0} {:>15.0} {:>12.0}",
                    backend.name,
                    cost.machine(),
                    cost.machine() / base.machine(),
                    cost.guest,
                    cost.dom0,
                    cost.process
                )?;
            }
        }
        Ok(())
    }
}

/// A load in words.
pub(crate) fn title((load, depth): &Load) -> String {
    let what = match load.as_str() {
        "read4k" => "read of 4 KiB",
        "write64k" => "write of 64 KiB",
        other => other,
    };
    format!("{what}, {depth} at a time")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
[  1.00] + echo 'COST a {}'
[  1.00] COST a {\"frontend\":\"flush \"}
[  1.00] COST a {\"load\":\"read4k 1 100\",\"machine\":1100,\"guest\":600,\"dom0\":500,\"process\":50}
[  1.00] COST a {\"load\":\"read4k 1 300\",\"machine\":3500,\"guest\":1600,\"dom0\":1500,\"process\":450}
[  1.00] COST b {\"load\":\"read4k 1 100\",\"machine\":100,\"guest\":0,\"dom0\":0,\"process\":0}
[  1.00] COST b {\"load\":\"read4k 1 300\",\"machine\":4100,\"guest\":4000,\"dom0\":0,\"process\":0}
[  1.00] COST b {\"served\":{\"requests\":400}}
";

    #[test]
    fn what_a_run_costs_once_is_not_in_the_figures() {
        let table = Table::read(LOG).expect("reads");
        let load = ("read4k".to_owned(), 1);
        let cost = table.backends[0].costs[&load];
        assert_eq!(
            (cost.elapsed, cost.machine(), cost.guest),
            (12.0, 10.0, 5.0)
        );
        assert_eq!((cost.dom0, cost.process), (5.0, 2.0));
        assert_eq!(table.backends[0].frontend, "flush");
        assert_eq!(table.backends[1].costs[&load].machine(), 20.0);
        let served = table.backends[1].served.as_ref().expect("served");
        assert_eq!(served["requests"], 400);
        let text = table.to_string();
        assert!(text.contains("2.00x"), "{text}");
    }

    #[test]
    fn runs_are_compared_load_by_load() {
        let table = Table::read(LOG).expect("reads");
        assert_eq!(table.spread(&table).expect("same"), 0.0);
        let other = Table::read(&LOG.replace("4000", "4200")).expect("reads");
        let spread = table.spread(&other).expect("same loads");
        assert!((spread - 0.05).abs() < 1e-9, "{spread}");
        let less = LOG.replace("COST b", "COST c");
        assert!(table.spread(&Table::read(&less).expect("reads")).is_err());
    }

    #[test]
    fn counts_that_do_not_grow_are_refused() {
        let twice = LOG.replace("read4k 1 300", "read4k 1 100");
        assert!(Table::read(&twice).is_err());
        assert!(Table::read("COST a {\"load\":\"read4k\"}").is_err());
        assert!(Table::read("COST a nothing").is_err());
    }
}
