//! What the process of the hive itself uses.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::sheet::Sheet;
use super::table::Metric;

/// Looks at this process. Blocks.
pub(super) fn look(sheet: &mut Sheet) {
    let (mut system, pid) = (System::new(), Pid::from_u32(std::process::id()));
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    let Some(process) = system.process(pid) else { return };
    sheet.count(Metric::ProcessMemory, &[], process.memory());
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a process are far below 2^53")]
    sheet.amount(Metric::ProcessCpu, &[], process.accumulated_cpu_time() as f64 / 1000.0);
    if let Some(files) = process.open_files() {
        sheet.count(Metric::ProcessOpenFiles, &[], files);
    }
    if let Some(files) = process.open_files_limit() {
        sheet.count(Metric::ProcessMostFiles, &[], files);
    }
    sheet.count(Metric::ProcessStart, &[], process.start_time());
}
