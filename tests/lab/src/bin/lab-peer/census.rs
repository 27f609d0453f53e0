//! `lab-peer census`.

use std::process::ExitCode;

use ringfence_core::DomId;
use ringfence_lab_agent::rpc::Census;

/// Prints a line for each domain's agent; fails if any holds anything.
pub(crate) fn print(domains: &[DomId]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for domid in domains {
        let (line, incarnation) = crate::fleet::connect(*domid, None);
        let census = line.census();
        let Census {
            granted,
            mappings,
            channels,
            stores,
        } = census;
        println!(
            "domain {domid} incarnation {incarnation} granted {granted} mappings {mappings} channels {channels} stores {stores}"
        );
        if census != Census::default() {
            code = ExitCode::FAILURE;
        }
    }
    code
}
