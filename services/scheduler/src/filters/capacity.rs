//! Hosts with enough left of everything.

use super::{Filter, Wanted};
use crate::view::{Host, HostTable};

/// Removes hosts with too few vCPUs, too little memory or disk.
#[derive(Debug)]
pub struct Capacity;

impl Filter for Capacity {
    fn name(&self) -> &'static str {
        "capacity"
    }

    fn keeps(&self, _: u32, host: &Host, wanted: &Wanted) -> bool {
        let free = host.free(wanted.deduct);
        free.vcpus >= wanted.amounts.vcpus
            && free.memory_mib >= wanted.amounts.memory_mib
            && free.disk_gib >= wanted.amounts.disk_gib
    }

    fn explain(&self, _: &HostTable, _: u32, host: &Host, wanted: &Wanted) -> String {
        let free = host.free(wanted.deduct);
        let lacks = [
            (
                "vCPUs",
                "",
                free.vcpus,
                host.limit.vcpus,
                wanted.amounts.vcpus,
            ),
            (
                "memory",
                " MiB",
                free.memory_mib,
                host.limit.memory_mib,
                wanted.amounts.memory_mib,
            ),
            (
                "disk",
                " GiB",
                free.disk_gib,
                host.limit.disk_gib,
                wanted.amounts.disk_gib,
            ),
        ];
        let told: Vec<String> = lacks
            .iter()
            .filter(|(_, _, free, _, wanted)| free < wanted)
            .map(|(what, unit, free, limit, wanted)| {
                format!(
                    "{what}: {} of {}{unit} free, {wanted}{unit} wanted",
                    free.max(0.0).floor(),
                    limit.floor()
                )
            })
            .collect();
        told.join("; ")
    }
}
