//! Which API's form the errors of a route have.

/// The first segments, under `/v1`, of the hive's own API.
const OWN: [&str; 9] =
    ["jobs", "events", "capabilities", "heartbeats", "workers", "session", "markdown", "shutdown", "reload"];

/// Whether a path is of OpenAI's API, whose clients expect OpenAI's `error` object: everything under `/v1`
/// but the hive's own API, so that a route of OpenAI's that the hive lacks is refused in its form too.
pub(super) fn is_openai(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/v1/") else { return path == "/v1" };
    !OWN.contains(&rest.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_v1_is_openais_but_the_hives_own_api() {
        for path in ["/v1", "/v1/models", "/v1/models/a/b", "/v1/audio/speech", "/v1/v1/models", "/v1/jobsx"]
        {
            assert!(is_openai(path), "{path}");
        }
        for path in ["/", "/v1x", "/health", "/v1/jobs", "/v1/jobs/job-1/stream", "/v1/session"] {
            assert!(!is_openai(path), "{path}");
        }
    }
}
