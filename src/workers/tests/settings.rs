//! The `[workers]` settings.

use super::*;
use crate::error::Code;

#[test]
fn impossible_settings_of_workers_are_refused_by_name() {
    for (wrong, named) in [
        ("[workers]\nrestart_first = \"0s\"", "[workers] restart_first cannot be 0s"),
        ("[workers]\nrestart_longest = \"0s\"", "[workers] restart_longest cannot be 0s"),
        ("[workers]\nrestart_longest = \"48h\"", "[workers] restart_longest cannot be"),
        ("[workers]\nrestart_first = \"5m\"", "[workers] restart_longest of 60s is less than restart_first"),
        ("[workers]\nthreads = 5000", "[workers] threads cannot be 5000"),
    ] {
        let failure = toml::from_str::<Config>(wrong).unwrap().validate().unwrap_err();
        assert!(failure.message.starts_with(named), "{wrong}: {}", failure.message);
        assert_eq!((failure.code, failure.hint.is_some()), (Code::ConfigInvalid, true), "{wrong}");
    }
    for (wrong, named) in
        [("[workers]\nthreads = 0", "threads"), ("[workers]\nrestart = \"sometimes\"", "restart")]
    {
        let error = toml::from_str::<Config>(wrong).unwrap_err().to_string();
        assert!(error.contains(named), "{wrong}: {error}");
    }
}
