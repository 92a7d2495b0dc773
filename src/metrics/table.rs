//! The table of all metrics.
//!
//! The comment of a metric is its help text, and `docs/METRICS.md` says the same. A metric that has no
//! samples at the moment is still described, so that what is written about it can be checked.

use prometheus_client::metrics::MetricType;

/// The prefix of every name.
pub(super) const PREFIX: &str = "rbee_hive";

/// How a metric is described.
#[derive(Debug)]
pub(super) struct Description {
    /// Without the prefix, the unit and the suffixes of its samples.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    /// In the plural, as OpenMetrics has it.
    pub(super) unit: Option<&'static str>,
    pub(super) labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $metric:ident: $kind:ident $name:literal $($unit:ident)? [$($label:ident),*],)+) => {
        /// What a sample is of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Metric {
            $($(#[doc = $help])+ $metric,)+
        }

        impl Metric {
            /// Every metric, in the order in which they are written.
            pub(super) const ALL: &[Self] = &[$(Self::$metric),+];

            pub(super) fn description(self) -> Description {
                match self {
                    $(Self::$metric => Description {
                        name: $name,
                        help: concat!($($help),+).trim_ascii(),
                        kind: MetricType::$kind,
                        unit: [$(Some(stringify!($unit)),)? None][0],
                        labels: &[$(stringify!($label)),*],
                    },)+
                }
            }
        }
    };
}

metrics! {
    /// The version that runs; always 1.
    Build: Info "build" [version],
    /// Jobs that have ended, by how: `succeeded`, `failed` or `cancelled`.
    Jobs: Counter "jobs" [operation, outcome],
    /// From the submission of a job to its end.
    JobDuration: Histogram "job_duration" seconds [operation],
    /// Jobs that have not ended, `queued` or `running`.
    JobsUnderWay: Gauge "jobs_under_way" [state],
    /// Readers of streams, by what they follow: a `job`, the `events` of the hive, its `heartbeats` or a
    /// `worker_log`.
    StreamReaders: Gauge "stream_readers" [stream],
    /// Narrations of jobs.
    Narrations: Counter "narrations" [level],
    /// Narrations that no job received, because some work has lost its context: a defect.
    NarrationsOutsideJobs: Counter "narrations_outside_jobs" [],
    /// Narrations by work that outlived its job.
    NarrationsLate: Counter "narrations_late" [],
    /// Requests to the gateway that have ended, by how: `completed`, `failed`, `refused` or `client_gone`.
    Requests: Counter "requests" [model, outcome],
    /// Requests to the gateway that have not ended.
    RequestsUnderWay: Gauge "requests_under_way" [],
    /// Attempts at another worker, of requests whose worker was lost.
    RequestRetries: Counter "request_retries" [model],
    /// From the acceptance of a request to its end.
    RequestDuration: Histogram "request_duration" seconds [model],
    /// The wait of a request for a worker, without the load of that worker.
    RequestQueue: Histogram "request_queue" seconds [model],
    /// From the acceptance of a request to its first token.
    TimeToFirstToken: Histogram "time_to_first_token" seconds [model],
    /// Tokens of prompts, cached ones included.
    PromptTokens: Counter "prompt_tokens" [model],
    /// Tokens of prompts that a worker had computed for an earlier request.
    CachedTokens: Counter "cached_tokens" [model],
    /// Tokens that were generated.
    CompletionTokens: Counter "completion_tokens" [model],
    /// Requests to the gateway that have ended, by who sent them.
    CallerRequests: Counter "caller_requests" [caller, outcome],
    /// Tokens of prompts, by who sent them.
    CallerPromptTokens: Counter "caller_prompt_tokens" [caller],
    /// Tokens that were generated, by who asked for them.
    CallerCompletionTokens: Counter "caller_completion_tokens" [caller],
    /// Requests that wait for a worker of a model.
    QueueRequests: Gauge "queue_requests" [model],
    /// How long the first request has waited that waits for a worker of a model.
    QueueOldest: Gauge "queue_oldest" seconds [model],
    /// How many requests may wait.
    QueueLimit: Gauge "queue_limit" [],
    /// Loads that have not ended: `submitted`, `waiting` for room, or `loading`.
    Loads: Gauge "loads" [state],
    /// Workers that the hive ended by itself, because a `model` or another program with a `lease` needed
    /// their room, because another worker `replaced` them, or because they were `idle`.
    Evictions: Counter "evictions" [reason],
    /// The memory of a device.
    DeviceMemory: Gauge "device_memory" bytes [device],
    /// Free memory of a device.
    DeviceMemoryFree: Gauge "device_memory_free" bytes [device],
    /// Memory of a device that the hive keeps free.
    DeviceMemoryReserve: Gauge "device_memory_reserve" bytes [device],
    /// Memory of a device that other programs have leased.
    DeviceMemoryLeased: Gauge "device_memory_leased" bytes [device],
    /// Workers, by what they are doing.
    Workers: Gauge "workers" [status],
    /// What happened to workers besides ordinary starts and stops, such as `crash` and `failed_load`.
    WorkerEvents: Counter "worker_events" [cause],
    /// Requests that a worker answers at the moment.
    WorkerRequests: Gauge "worker_requests" [pid, model],
    /// Requests that a worker can answer at once.
    WorkerSlots: Gauge "worker_slots" [pid, model],
    /// The memory that a worker was expected to take on a device, when it was started.
    WorkerMemoryExpected: Gauge "worker_memory_expected" bytes [pid, model, device],
    /// The memory that a worker takes on a device, as measured.
    WorkerMemory: Gauge "worker_memory" bytes [pid, model, device],
    /// Files that are being downloaded.
    Downloads: Gauge "downloads" [],
    /// Bytes that downloads have received.
    Downloaded: Counter "downloaded" bytes [],
    /// The size of the disk of the data folder.
    Disk: Gauge "disk" bytes [],
    /// What the hive can still write to the disk of the data folder.
    DiskFree: Gauge "disk_free" bytes [],
    /// Memory of the hive itself, without its workers.
    ProcessMemory: Gauge "process_resident_memory" bytes [],
    /// Processor time of the hive itself.
    ProcessCpu: Counter "process_cpu" seconds [],
    /// Files and sockets that the hive has open.
    ProcessOpenFiles: Gauge "process_open_fds" [],
    /// How many files and sockets the hive may have open.
    ProcessMostFiles: Gauge "process_max_fds" [],
    /// When the hive started, since the Unix epoch.
    ProcessStart: Gauge "process_start_time" seconds [],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_help_text_needs_no_escapes_and_no_two_metrics_share_a_name() {
        let mut names = Vec::new();
        for metric in Metric::ALL {
            let Description { name, help, .. } = metric.description();
            assert!(help.ends_with('.') && !help.contains(['"', '\\', '\n']), "{name}: {help}");
            names.push(name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len());
    }

    /// The rows of the tables of `docs/METRICS.md`: a name, the type, the labels and the help text.
    fn documented() -> Vec<[String; 4]> {
        let document = include_str!("../../docs/METRICS.md");
        let rows = document.lines().filter(|line| line.starts_with("| `rbee_hive_"));
        rows.map(|row| {
            let cells = row.trim_matches(['|', ' ']).splitn(4, " | ").map(|cell| cell.trim().to_owned());
            cells.collect::<Vec<_>>().try_into().unwrap_or_else(|cells| panic!("{row}: {cells:?}"))
        })
        .collect()
    }

    #[test]
    fn every_metric_is_documented_with_its_type_its_labels_and_its_help_text() {
        let described = Metric::ALL.iter().map(|metric| {
            let Description { name, help, kind, unit, labels } = metric.description();
            let unit = unit.map(|unit| format!("_{unit}")).unwrap_or_default();
            let suffix = match kind {
                MetricType::Counter => "_total",
                MetricType::Info => "_info",
                _ => "",
            };
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let name = format!("`{PREFIX}_{name}{unit}{suffix}`");
            [name, kind.as_str().to_owned(), labels.join(", "), help.to_owned()]
        });
        let (described, documented) = (Vec::from_iter(described), documented());
        for (described, documented) in described.iter().zip(&documented) {
            assert_eq!(described, documented);
        }
        assert_eq!(described.len(), documented.len());
    }
}
