//! The samples of one scrape, and how they are written.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::table::{Description, Metric, PREFIX};
use crate::histogram::Histogram;

/// The format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// The samples of one scrape.
#[derive(Debug, Default)]
pub(super) struct Sheet(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    metric: Metric,
    /// As many as the metric has labels.
    labels: Vec<String>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Info,
    Count(u64),
    Amount(f64),
    Times(Box<Histogram>),
}

impl Sheet {
    pub(super) fn info(&mut self, metric: Metric, label: &str) {
        self.add(metric, &[label], Value::Info);
    }

    /// A count, of a counter or of a gauge.
    pub(super) fn count(&mut self, metric: Metric, labels: &[&str], count: impl TryInto<u64>) {
        self.add(metric, labels, Value::Count(count.try_into().unwrap_or(u64::MAX)));
    }

    pub(super) fn amount(&mut self, metric: Metric, labels: &[&str], amount: f64) {
        self.add(metric, labels, Value::Amount(amount));
    }

    pub(super) fn times(&mut self, metric: Metric, labels: &[&str], times: &Histogram) {
        self.add(metric, labels, Value::Times(Box::new(times.clone())));
    }

    fn add(&mut self, metric: Metric, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), metric.description().labels.len(), "{metric:?}");
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.0.push(Sample { metric, labels, value });
    }

    /// Writes it.
    pub(super) fn written(self, format: Format) -> String {
        let (mut out, mut registry) = (String::new(), Registry::with_prefix(PREFIX));
        registry.register_collector(Box::new(self));
        let written = match format {
            Format::OpenMetrics => text::encode(&mut out, &registry),
            Format::Prometheus => prometheus_text::encode(&mut out, &registry),
        };
        debug_assert!(written.is_ok(), "a string takes everything");
        out
    }
}

impl Collector for Sheet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in Metric::ALL {
            let Description { name, help, kind, unit, labels } = metric.description();
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut encoder = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for sample in self.0.iter().filter(|sample| sample.metric == *metric) {
                let labels: Vec<_> =
                    labels.iter().copied().zip(sample.labels.iter().map(String::as_str)).collect();
                match &sample.value {
                    Value::Info => encoder.encode_info(&labels)?,
                    value => encode(value, &mut encoder.encode_family(&labels)?, kind.as_str() == "counter")?,
                }
            }
        }
        Ok(())
    }
}

fn encode(value: &Value, encoder: &mut MetricEncoder<'_>, is_counter: bool) -> fmt::Result {
    const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
    match value {
        Value::Info => Ok(()),
        Value::Count(count) if is_counter => encoder.encode_counter(count, NO_EXEMPLAR),
        Value::Amount(amount) if is_counter => encoder.encode_counter(amount, NO_EXEMPLAR),
        Value::Count(count) => encoder.encode_gauge(count),
        Value::Amount(amount) => encoder.encode_gauge(amount),
        Value::Times(times) => {
            let buckets: Vec<_> = times.buckets().collect();
            encoder.encode_histogram::<NoLabelSet>(times.sum().as_secs_f64(), times.count(), &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sheet() -> Sheet {
        let mut sheet = Sheet::default();
        sheet.count(Metric::Jobs, &["model_list", "succeeded"], 3_u64);
        sheet.count(Metric::QueueRequests, &["a \"model\"\n\\"], 2_usize);
        sheet.amount(Metric::ProcessCpu, &[], 1.5);
        let mut times = Histogram::default();
        times.add(Duration::from_millis(7));
        times.add(Duration::from_hours(5));
        sheet.times(Metric::JobDuration, &["model_list"], &times);
        sheet
    }

    #[test]
    fn samples_stand_below_their_description_with_the_suffix_of_their_kind() {
        let text = sheet().written(Format::OpenMetrics);
        assert!(text.ends_with("# EOF\n"));
        for part in [
            "# TYPE rbee_hive_jobs counter\nrbee_hive_jobs_total{operation=\"model_list\",outcome=\"succeeded\"} 3\n",
            "# TYPE rbee_hive_process_cpu_seconds counter\n# UNIT rbee_hive_process_cpu_seconds seconds\n\
             rbee_hive_process_cpu_seconds_total 1.5\n",
            "rbee_hive_queue_requests{model=\"a \\\"model\\\"\\n\\\\\"} 2\n",
            "rbee_hive_job_duration_seconds_sum{operation=\"model_list\"} 18000.007\n",
            "rbee_hive_job_duration_seconds_bucket{le=\"0.01\",operation=\"model_list\"} 1\n",
            "rbee_hive_job_duration_seconds_bucket{le=\"14400.0\",operation=\"model_list\"} 1\n",
            "rbee_hive_job_duration_seconds_bucket{le=\"+Inf\",operation=\"model_list\"} 2\n",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        let text = sheet().written(Format::Prometheus);
        assert!(text.contains("# TYPE rbee_hive_jobs_total counter\nrbee_hive_jobs_total{"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }
}
