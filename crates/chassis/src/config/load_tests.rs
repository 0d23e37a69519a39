use std::io::Write;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::super::{REDACTED, Secret};
use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    log: String,
    router: Router,
    store: Store,
    queues: BTreeMap<String, Queue>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Router {
    port: u16,
    workers: Vec<String>,
    reflection: bool,
    slots: Option<u32>,
    #[serde(with = "crate::config::duration")]
    drain: Duration,
    #[serde(with = "crate::config::size")]
    payload_max: usize,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Store {
    url: Secret,
    token: Option<Secret>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Queue {
    max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log: "info".into(),
            router: Router {
                port: 7600,
                workers: Vec::new(),
                reflection: false,
                slots: None,
                drain: Duration::from_secs(25),
                payload_max: 256 << 10,
            },
            store: Store {
                url: "redis://default".into(),
                token: None,
            },
            queues: BTreeMap::new(),
        }
    }
}

fn loader(env: &[(&str, &str)]) -> Loader {
    Loader::from_env(env.iter().copied())
        .standard_env(&[("REDIS_URL", "store.url")])
        .free_form(&["queues"])
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes())
        .expect("a temporary file can be written");
    file
}

fn from_env(env: &[(&str, &str)]) -> Result<Loaded<Settings>, ConfigError> {
    loader(env).load(None, json!({}))
}

fn origin(loaded: &Loaded<Settings>, key: &str) -> Origin {
    let origins = loaded.origins();
    origins
        .into_iter()
        .find(|origin| origin.key == key)
        .expect("the key is listed")
}

#[test]
fn nothing_set_gives_the_defaults_with_their_secrets() {
    let loaded = from_env(&[]).expect("defaults load");
    assert_eq!(loaded.value, Settings::default());
    assert_eq!(loaded.value.store.url.expose(), "redis://default");
    assert!(
        loaded
            .origins()
            .iter()
            .all(|origin| origin.source == Source::Default)
    );
}

#[test]
fn later_layers_win_and_are_named() {
    let file =
        file("log = 'warn'\n[router]\nport = 1\npayload_max = 4096\ndrain = '1s'\n[store]\nurl = 'a'\n");
    let loaded: Loaded<Settings> = loader(&[
        ("TIDEGATE_ROUTER__PORT", "2"),
        ("TIDEGATE_ROUTER__DRAIN", "250ms"),
        ("TIDEGATE_STORE__URL", "b"),
        ("REDIS_URL", "c"),
    ])
    .load(
        Some(file.path()),
        json!({"router": {"port": 3, "reflection": null}}),
    )
    .expect("all layers load");

    assert_eq!(loaded.value.log, "warn");
    assert_eq!(loaded.value.router.port, 3);
    assert_eq!(loaded.value.router.payload_max, 4096);
    assert_eq!(loaded.value.router.drain, Duration::from_millis(250));
    assert_eq!(loaded.value.store.url.expose(), "c");

    assert_eq!(
        origin(&loaded, "log").source,
        Source::File(file.path().to_owned())
    );
    assert_eq!(origin(&loaded, "router.port").source, Source::Flag);
    assert_eq!(origin(&loaded, "router.reflection").source, Source::Default);
    let drain = origin(&loaded, "router.drain");
    assert_eq!(drain.source.to_string(), "env TIDEGATE_ROUTER__DRAIN");
    assert_eq!(drain.value, json!("250ms"));
    assert_eq!(
        origin(&loaded, "store.url").source,
        Source::Env("REDIS_URL".into())
    );
}

#[test]
fn origins_redact_secrets() {
    let loaded =
        from_env(&[("REDIS_URL", "redis://:pw@h"), ("TIDEGATE_STORE__TOKEN", "0123")]).expect("secrets load");
    assert_eq!(
        loaded.value.store.token.as_ref().map(Secret::expose),
        Some("0123")
    );
    assert_eq!(origin(&loaded, "store.url").value, json!(REDACTED));
    assert_eq!(origin(&loaded, "store.token").value, json!(REDACTED));
    assert!(!format!("{loaded:?}").contains("pw"));
}

#[test]
fn environment_texts_take_the_type_of_the_key() {
    let loaded = from_env(&[
        ("TIDEGATE_LOG", "123"),
        ("TIDEGATE_ROUTER__WORKERS", "a:1, b:2"),
        ("TIDEGATE_ROUTER__REFLECTION", "true"),
        ("TIDEGATE_ROUTER__SLOTS", "64"),
        ("TIDEGATE_ROUTER__PAYLOAD_MAX", "1MiB"),
        ("TIDEGATE_QUEUES__EMAIL__MAX", "5"),
    ])
    .expect("typed texts load")
    .value;
    assert_eq!(loaded.log, "123");
    assert_eq!(loaded.router.workers, ["a:1", "b:2"]);
    assert!(loaded.router.reflection);
    assert_eq!(loaded.router.slots, Some(64));
    assert_eq!(loaded.router.payload_max, 1 << 20);
    assert_eq!(loaded.queues["email"], Queue { max: 5 });
}

#[test]
fn variables_that_are_not_settings_are_left_alone() {
    let env = [
        ("TIDEGATE_JOB_ID", "x"),
        ("TIDEGATE_ROUTER", "x"),
        ("PATH", "/bin"),
        ("REDIS_URL", ""),
    ];
    assert_eq!(
        from_env(&env).expect("they are ignored").value,
        Settings::default()
    );
}

#[test]
fn an_unknown_key_is_named_with_its_source_and_a_suggestion() {
    let file = file("[router]\nprot = 1\n");
    let error = loader(&[])
        .load::<Settings>(Some(file.path()), json!({}))
        .expect_err("prot");
    let text = error.to_string();
    assert!(text.contains("unknown key `router.prot` in "), "{text}");
    assert!(text.contains(&file.path().display().to_string()), "{text}");
    assert!(text.ends_with("did you mean `router.port`?"), "{text}");

    let error = from_env(&[("TIDEGATE_ROUTRE__PORT", "1")]).expect_err("routre");
    assert_eq!(
        error.to_string(),
        "unknown key `routre` in env TIDEGATE_ROUTRE__PORT; did you mean `router`?"
    );

    let error = from_env(&[("TIDEGATE_ROUTER__URL", "1")]).expect_err("wrong section");
    assert!(
        error.to_string().ends_with("did you mean `store.url`?"),
        "{error}"
    );

    let error = loader(&[])
        .load::<Settings>(None, json!({"zzzzzzzz": 1}))
        .expect_err("zzzzzzzz");
    assert_eq!(error.to_string(), "unknown key `zzzzzzzz` in flag");
}

#[test]
fn a_wrong_type_is_named_with_its_source() {
    let error = from_env(&[("TIDEGATE_ROUTER__PORT", "many")]).expect_err("not a port");
    let text = error.to_string();
    assert!(
        text.starts_with("invalid value for `router.port` in env TIDEGATE_ROUTER__PORT: "),
        "{text}"
    );

    let error = from_env(&[("TIDEGATE_ROUTER__SLOTS", "many")]).expect_err("not a number");
    assert!(
        error
            .to_string()
            .contains("`router.slots` in env TIDEGATE_ROUTER__SLOTS"),
        "{error}"
    );

    let file = file("[router]\ndrain = 5\n");
    let error = loader(&[])
        .load::<Settings>(Some(file.path()), json!({}))
        .expect_err("no unit");
    assert!(error.to_string().contains("\"5s\""), "{error}");
    assert!(error.to_string().contains("`router.drain`"), "{error}");
}

#[test]
fn a_file_variable_reads_the_file() {
    let secret = file("hunter2\n");
    let path = secret.path().display().to_string();
    let loaded = from_env(&[("TIDEGATE_STORE__TOKEN_FILE", &path), ("REDIS_URL_FILE", &path)])
        .expect("the files load");
    assert_eq!(
        loaded.value.store.token.as_ref().map(Secret::expose),
        Some("hunter2")
    );
    assert_eq!(loaded.value.store.url.expose(), "hunter2");
    assert_eq!(
        origin(&loaded, "store.token").source,
        Source::Env("TIDEGATE_STORE__TOKEN_FILE".into())
    );

    let error = from_env(&[("TIDEGATE_STORE__TOKEN_FILE", "/nonexistent")]).expect_err("no file");
    assert_eq!(
        error.to_string(),
        "cannot read /nonexistent, named by TIDEGATE_STORE__TOKEN_FILE"
    );
    let error = from_env(&[("REDIS_URL", "a"), ("REDIS_URL_FILE", &path)]).expect_err("both");
    assert_eq!(
        error.to_string(),
        "both REDIS_URL and REDIS_URL_FILE are set: unset one of them"
    );
}

#[test]
fn broken_or_missing_files_are_named() {
    let broken = file("[router\n");
    let error = loader(&[])
        .load::<Settings>(Some(broken.path()), json!({}))
        .expect_err("broken");
    assert!(matches!(error, ConfigError::Syntax { .. }), "{error}");
    let missing = Path::new("/nonexistent/tidegate.toml");
    let error = loader(&[])
        .load::<Settings>(Some(missing), json!({}))
        .expect_err("missing");
    assert!(error.to_string().contains("--config"), "{error}");
}

#[test]
fn the_first_file_of_the_search_path_is_read() {
    let file = file("log = 'debug'\n");
    let loaded: Loaded<Settings> = loader(&[])
        .search([Path::new("/nonexistent/tidegate.toml"), file.path()])
        .load(None, json!({}))
        .expect("the second exists");
    assert_eq!(loaded.value.log, "debug");
    assert_eq!(loaded.file(), Some(file.path()));
}
