//! Build, test and measure: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod abi;
mod bench;
mod ci;
mod counts;
mod deb;
mod demo;
mod fuzz;
mod image;
mod lab;
mod libtest;
mod licences;
mod no_std;
mod process;
mod programs;
mod test;
mod weaken;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// Build, test and measure Ringfence.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Copy a disk through a driver domain and let others check the copy
    Demo(demo::Options),
    /// Run every test, group by group
    Test(test::Options),
    /// Compare our wire structs with the public headers of Xen
    Abi,
    /// Take one check away at a time and see that its tests notice
    Weaken(weaken::Options),
    /// Format, lints, docs, licences, abi, tests, weaken
    Ci,
    /// Look at the licences of everything we depend on
    Licences,
    /// Measure, with the peers in the same run
    Bench(bench::Options),
    /// Boot the real Xen under QEMU and run the scenarios of tests/lab there
    Lab(lab::Options),
    /// Build a bootable image of images/
    Image(image::Options),
    /// Make a Debian package
    Deb(deb::Options),
    /// Fuzz the parsers
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let result = process::with_sbin().and_then(|()| run(&command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that anyhow adds when RUST_BACKTRACE is set for the tests.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Demo(options) => demo::run_demo(options),
        Command::Test(options) => test::run(options),
        Command::Abi => abi::run(),
        Command::Weaken(options) => weaken::run(options),
        Command::Ci => ci::run(),
        Command::Licences => licences::run(),
        Command::Bench(options) => bench::run(options),
        Command::Lab(options) => lab::run(options),
        Command::Image(options) => image::run(options),
        Command::Deb(options) => deb::run(options),
        Command::Fuzz(options) => fuzz::run(options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_defined_once() {
        super::Command::command().debug_assert();
    }
}
