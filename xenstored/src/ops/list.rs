//! Directory listings, whole and in parts.

use ringfence_core::store::number;
use ringfence_core::wire::xs_wire::{Errno, PAYLOAD_MAX};

use super::Request;
use crate::path::canonicalize;
use crate::store::Store;
use crate::tree::Node;

fn names(node: &Node) -> Vec<u8> {
    node.children
        .iter()
        .flat_map(|name| name.bytes().chain([0]))
        .collect()
}

impl Store {
    pub(super) fn directory(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let path = canonicalize(request.caller.who.domid, request.one()?)?;
        let node = self.nodes(request).readable(&path)?;
        Ok(names(&node))
    }

    /// `<generation>NUL` and as many whole names from `offset` on as fit; an empty name after the last.
    pub(super) fn directory_part(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        let [path, offset] = request.strings()?;
        let offset = number::unsigned(offset)
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or(Errno::Inval)?;
        let path = canonicalize(request.caller.who.domid, path)?;
        let node = self.nodes(request).readable(&path)?;
        let names = names(&node);
        let rest = names.get(offset..).unwrap_or_default();
        let mut answer = format!("{}\0", node.generation).into_bytes();
        // One byte is kept for the empty name.
        let room = PAYLOAD_MAX.saturating_sub(answer.len()).saturating_sub(1);
        let part = if rest.len() <= room {
            rest
        } else {
            let whole = rest.get(..room).unwrap_or_default();
            let end = whole
                .iter()
                .rposition(|byte| *byte == 0)
                .map_or(0, |nul| nul + 1);
            whole.get(..end).unwrap_or_default()
        };
        answer.extend_from_slice(part);
        if part.len() == rest.len() {
            answer.push(0);
        }
        Ok(answer)
    }
}
