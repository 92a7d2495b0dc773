//! `GET /metrics`: the metrics, for Prometheus.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::app::AppState;
use crate::metrics::{self, Format};

/// Tells the metrics of the hive, for Prometheus.
///
/// In OpenMetrics' text, except for a client whose `Accept` names plain text and not OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    tag = "Hive",
    responses((status = 200, description = "The metrics, as they are now.", content(
        (String = "application/openmetrics-text"),
        (String = "text/plain"),
    )))
)]
pub(super) async fn get(State(app): State<AppState>, headers: HeaderMap) -> Response {
    let format = format(&headers);
    ([(CONTENT_TYPE, format.content_type())], metrics::scrape(&app, format).await).into_response()
}

/// OpenMetrics, except for a client that names plain text and not OpenMetrics.
fn format(headers: &HeaderMap) -> Format {
    let accept: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let names = |media_type: &str| accept.iter().any(|value| value.contains(media_type));
    match names("text/plain") && !names("application/openmetrics-text") {
        true => Format::Prometheus,
        false => Format::OpenMetrics,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_those_who_know_nothing_else() {
        let of = |accept: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            format(&headers)
        };
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [&[][..], &["*/*"], &[prometheus], &["text/plain", "application/openmetrics-text"]] {
            assert_eq!(of(accept), Format::OpenMetrics, "{accept:?}");
        }
        assert_eq!(of(&["text/plain;version=0.0.4"]), Format::Prometheus);
    }
}
