use std::path::Path;

use super::*;
use crate::time::Instant;

fn token(secret: &str, more: &str) -> NamedToken {
    let sha256 = serde_json::to_string(&SecretHash::of(secret.as_bytes())).unwrap();
    toml::from_str(&format!("sha256 = {sha256}\n{more}")).unwrap()
}

fn open(dir: &Path) -> Callers {
    Callers::open(&Config { data_dir: dir.to_owned(), ..Config::default() }).unwrap()
}

fn name_of(callers: &Callers, secret: &str) -> Option<String> {
    callers.holder_of(secret.as_bytes()).map(|caller| caller.name().to_string())
}

#[test]
fn a_token_counts_from_its_creation_to_its_revocation_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let callers = open(dir.path());
    assert!(!callers.ask_for_a_token() && name_of(&callers, "m").is_none());
    let refused = callers.create("ci", token("c", "")).unwrap_err();
    assert_eq!((refused.code, dir.path().join("tokens.toml").exists()), (Code::TokenRefused, false));
    callers.create("boss", token("m", "role = \"manage\"")).unwrap();
    callers.create("ci", token("c", "")).unwrap();
    assert!(callers.ask_for_a_token());
    for (secret, name) in [("m", Some("boss")), ("c", Some("ci")), ("x", None), ("", None)] {
        assert_eq!(name_of(&callers, secret).as_deref(), name, "{secret}");
        assert_eq!(name_of(&open(dir.path()), secret).as_deref(), name, "{secret}");
    }
    let taken = callers.create("ci", token("d", "")).unwrap_err();
    let same = callers.create("other", token("c", "")).unwrap_err();
    assert_eq!((taken.code, same.code), (Code::TokenExists, Code::TokenExists));
    assert_eq!(callers.revoke("nobody").unwrap_err().code, Code::TokenNotFound);
    assert_eq!(callers.revoke("boss").unwrap_err().code, Code::TokenRefused, "ci could manage nothing");
    let held = callers.holder_of(b"c").unwrap();
    callers.revoke("ci").unwrap();
    assert!(held.is_over() && name_of(&callers, "c").is_none());
    callers.revoke("boss").unwrap();
    assert!(!callers.ask_for_a_token(), "the last one may go");
}

#[test]
fn beyond_loopback_the_last_token_stays() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).create("boss", token("m", "role = \"manage\"")).unwrap();
    let bind = "0.0.0.0".parse().unwrap();
    let config = Config { data_dir: dir.path().to_owned(), bind, ..Config::default() };
    config.validate().unwrap();
    let callers = Callers::open(&config).unwrap();
    assert_eq!(callers.revoke("boss").unwrap_err().code, Code::TokenRefused);
    std::fs::remove_file(dir.path().join("tokens.toml")).unwrap();
    assert_eq!(callers.reload().unwrap_err().code, Code::ConfigInvalid);
    assert_eq!(name_of(&callers, "m").as_deref(), Some("boss"), "what is not valid changes nothing");
    config.validate().unwrap_err();
}

#[test]
fn what_a_person_has_written_is_kept_and_counts_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let callers = open(dir.path());
    callers.create("boss", token("m", "role = \"manage\"")).unwrap();
    let kept = callers.holder_of(b"m").unwrap();
    let file = dir.path().join("tokens.toml");
    let mut tokens = Tokens::read(&file).unwrap();
    tokens.tokens.insert("alice".into(), token("a", "concurrent = 3"));
    let text = tokens.to_text().unwrap();
    std::fs::write(&file, &text).unwrap();
    callers.create("ci", token("c", "")).unwrap();
    assert_eq!(name_of(&callers, "a").as_deref(), Some("alice"));
    std::fs::write(&file, text).unwrap();
    callers.reload().unwrap();
    assert!(name_of(&callers, "c").is_none() && !kept.is_over());
    std::fs::write(&file, "[tokens").unwrap();
    assert_eq!(callers.reload().unwrap_err().code, Code::ConfigInvalid);
    assert!(callers.create("x", token("x", "")).is_err(), "a damaged file is not replaced");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[tokens");
    assert_eq!(name_of(&callers, "a").as_deref(), Some("alice"));
}

#[test]
fn limits_go_on_over_changes_of_others_and_another_secret_is_another_holder() {
    let dir = tempfile::tempdir().unwrap();
    let callers = open(dir.path());
    callers.create("boss", token("m", "role = \"manage\"")).unwrap();
    callers.create("ci", token("c", "requests_per_minute = 1\nconcurrent = 1")).unwrap();
    let holder = callers.holder_of(b"c").unwrap();
    let permit = holder.begin().unwrap();
    callers.create("other", token("o", "")).unwrap();
    let again = callers.holder_of(b"c").unwrap();
    let limited = again.begin().unwrap_err();
    assert_eq!((limited.failure.code, limited.retry_after), (Code::TooManyRequests, 1));
    drop(permit);
    let limited = again.begin().unwrap_err();
    assert!(
        limited.retry_after > 50 && limited.failure.message.contains("1 request(s) a minute"),
        "{limited:?}"
    );
    let mut tokens = callers.tokens();
    tokens.tokens.insert("ci".into(), token("d", ""));
    std::fs::write(dir.path().join("tokens.toml"), tokens.to_text().unwrap()).unwrap();
    callers.reload().unwrap();
    assert!(holder.is_over() && name_of(&callers, "c").is_none());
    assert_eq!(name_of(&callers, "d").as_deref(), Some("ci"));
}

#[tokio::test]
async fn a_token_is_over_once_it_has_expired_or_is_revoked() {
    let past = Caller::new("a", token("a", "expires_at = \"2020-01-01T00:00:00Z\""));
    assert!(past.is_over());
    let soon = Instant(Instant::now().0 + 30);
    let expiring = Caller::new("b", NamedToken { expires_at: Some(soon), ..token("b", "") });
    assert!(!expiring.is_over());
    expiring.clone().over().await;
    assert!(expiring.is_over() && soon.is_past());
    let revoked = Caller::new("c", token("c", ""));
    revoked.revoke();
    revoked.over().await;

    let dir = tempfile::tempdir().unwrap();
    let callers = open(dir.path());
    callers.create("boss", token("m", "role = \"manage\"")).unwrap();
    callers.create("late", token("l", "expires_at = \"2020-01-01T00:00:00Z\"")).unwrap();
    assert!(callers.holder_of(b"l").is_none());
}

#[test]
fn roles_include_those_before_them_and_models_are_named_whole_or_by_their_beginning() {
    let holder = |more: &str| Caller::new("ci", token("c", more));
    let user = holder("");
    user.require(Role::Read, "GET /v1/jobs").unwrap();
    let refused = user.require(Role::Manage, "POST /v1/shutdown").unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    for part in ["'ci'", "`use`", "`manage`", "POST /v1/shutdown"] {
        assert!(refused.message.contains(part), "{refused}");
    }
    let some = holder("models = [\"a/b:Q4\", \"small*\"]");
    for (name, may) in
        [("a/b:Q4", true), ("a/b:Q4_K", false), ("small-1", true), ("a", false), ("tiny", false)]
    {
        assert_eq!(some.may_use([name].into_iter()), may, "{name}");
        assert!(user.may_use([name].into_iter()));
    }
    assert!(some.may_use(["x", "small"].into_iter()));
    assert!(!holder("models = []").may_use(["x"].into_iter()));
}
