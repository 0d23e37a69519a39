//! The scripts: one file per operation, with the parts it includes put in front.

use std::sync::LazyLock;

use deadpool_redis::redis;
use tidegate_protocol::domain::Policy;

use super::policy;

const LIB: &str = include_str!("lua/lib.lua");
const KEYS: &str = include_str!("lua/keys.lua");
const INDEX: &str = include_str!("lua/index.lua");
const LIFE: &str = include_str!("lua/life.lua");
const READY: &str = include_str!("lua/ready.lua");

/// A script as the server knows it.
pub(crate) struct Script {
    pub text: String,
    pub sha: String,
}

impl Script {
    /// The first line of an operation's file says what the script may do (`#!lua flags=...`) and has to stay first.
    fn new(parts: &[&str], operation: &str) -> Self {
        let (first, rest) = operation.split_once('\n').unwrap_or((operation, ""));
        let mut text = format!("{first}\n{}", defaults());
        for part in parts.iter().chain([&rest]) {
            text.push_str(part);
            text.push('\n');
        }
        Self::whole(text)
    }

    fn whole(text: String) -> Self {
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Self { text, sha }
    }
}

/// The policy of a queue without a record, so that its numbers are written down in one place only.
fn defaults() -> String {
    let numbers = policy::numbers(&Policy::default());
    let join = |of: &dyn Fn(&(&str, u64)) -> String| numbers.iter().map(of).collect::<Vec<_>>().join(",");
    let (names, values) = (
        join(&|(name, _)| format!("'{name}'")),
        join(&|(_, value)| value.to_string()),
    );
    format!("local POLICY_FIELDS, POLICY_DEFAULTS = {{{names}}}, {{{values}}}\n")
}

macro_rules! scripts {
    ($($name:ident = $file:literal [$($part:ident),*];)+) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(&[$($part),*], include_str!(concat!("lua/", $file))));)+

        #[cfg(test)]
        pub(crate) fn all() -> Vec<&'static Script> {
            vec![$(&$name),+, &PULSE]
        }
    };
}

scripts! {
    SUBMIT = "submit.lua" [LIB, KEYS, INDEX];
    LEASE = "lease.lua" [LIB, KEYS, INDEX, LIFE, READY];
    RENEW = "renew.lua" [LIB];
    SETTLE = "settle.lua" [LIB, KEYS, INDEX, LIFE];
    SWEEP = "sweep.lua" [LIB, KEYS, INDEX, LIFE];
    RELEASE = "release.lua" [LIB, KEYS, INDEX, LIFE];
    RECLAIM = "reclaim.lua" [LIB, KEYS, INDEX, LIFE];
    ACT = "act.lua" [LIB, KEYS, INDEX, LIFE];
    PUT = "put.lua" [LIB];
    CAPS = "caps.lua" [LIB];
    PAUSE = "pause.lua" [LIB];
    GET = "get.lua" [LIB];
    LIST = "list.lua" [LIB];
    STATS = "stats.lua" [LIB, READY];
}

/// Not about a queue: stands alone.
pub(crate) static PULSE: LazyLock<Script> =
    LazyLock::new(|| Script::whole(include_str!("lua/pulse.lua").to_owned()));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_first_what_it_may_do_and_no_two_are_the_same() {
        let mut shas: Vec<_> = all().iter().map(|script| script.sha.clone()).collect();
        assert!(all().iter().all(|script| script.text.starts_with("#!lua")));
        shas.sort();
        shas.dedup();
        assert_eq!(shas.len(), all().len());
    }

    /// Lua takes 200 locals a function.
    #[test]
    fn none_has_too_many_locals() {
        for script in all() {
            let locals: usize = script
                .text
                .lines()
                .filter_map(|line| line.strip_prefix("local "))
                .map(|line| match line.starts_with("function") {
                    true => 1,
                    false => line.split('=').next().unwrap().split(',').count(),
                })
                .sum();
            assert!(
                locals < 200,
                "{locals} locals:\n{}",
                script.text.lines().nth(2).unwrap()
            );
        }
    }
}
