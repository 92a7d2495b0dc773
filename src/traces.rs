//! Traces: where the time of a request goes, as spans of OpenTelemetry.
//!
//! The spans are those of `tracing`, of the target [`TARGET`] and at level debug, so that no log at its usual level
//! sees them: the request of a client, its wait in the queue, the job of a load that it waits for, and the worker that
//! answers it. Where nobody wants them, a span costs about as much as a comparison.
//!
//! With the feature `otlp`, and where `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names a
//! collector, they are sent to it (OTLP, protobuf over HTTP). The trace of a request continues that of its client, and
//! goes on in the worker, by the header `traceparent` (W3C Trace Context).

#[cfg(feature = "otlp")]
mod otlp;
mod target;

use http::HeaderMap;
use tracing::Span;

#[cfg(feature = "otlp")]
pub(crate) use otlp::layer;
pub(crate) use target::TARGET;

/// Sends what has not been sent, at the end of the process. Blocks, for a few seconds at most.
pub(crate) fn end() {
    #[cfg(feature = "otlp")]
    otlp::end();
}

/// Makes a span continue the trace that the headers of a request name.
pub(crate) fn continue_from(span: &Span, headers: &HeaderMap) {
    #[cfg(feature = "otlp")]
    otlp::continue_from(span, headers);
    #[cfg(not(feature = "otlp"))]
    let _ = (span, headers);
}

/// The headers by which another program continues the trace of the current span.
pub(crate) fn headers() -> HeaderMap {
    #[cfg(feature = "otlp")]
    return otlp::headers(&Span::current());
    #[cfg(not(feature = "otlp"))]
    HeaderMap::new()
}
