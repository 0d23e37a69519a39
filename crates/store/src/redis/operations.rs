//! The operations in Lua, as one function library of the server.
//!
//! A library, not scripts: a script makes its functions anew in each call, which took longer than the call's work; a
//! library makes them once, when it is loaded. Its name and the names of its functions carry a hash of its text, so that
//! routers of two versions can work side by side. The server keeps it with the data, also over restarts and failovers.

use std::sync::LazyLock;

use tidegate_protocol::domain::Policy;

use super::policy;

/// What all operations share, in order.
const PARTS: [&str; 7] = [
    include_str!("lua/lib.lua"),
    include_str!("lua/jobs.lua"),
    include_str!("lua/names.lua"),
    include_str!("lua/index.lua"),
    include_str!("lua/life.lua"),
    include_str!("lua/ready.lua"),
    include_str!("lua/aside.lua"),
];

/// An operation: its name, and its text without the first line, which says what it may do.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    name: &'static str,
    text: &'static str,
}

macro_rules! operations {
    ($($constant:ident = $name:literal,)+) => {
        $(pub(crate) const $constant: Operation =
            Operation { name: $name, text: include_str!(concat!("lua/", $name, ".lua")) };)+

        const OPERATIONS: &[Operation] = &[$($constant),+];
    };
}

operations! {
    SUBMIT = "submit",
    LEASE = "lease",
    HANDOVER = "handover",
    RENEW = "renew",
    SETTLE = "settle",
    SWEEP = "sweep",
    RELEASE = "release",
    RECLAIM = "reclaim",
    ACT = "act",
    PUT = "put",
    CAPS = "caps",
    PAUSE = "pause",
    GET = "get",
    LIST = "list",
    STATS = "stats",
    PULSE = "pulse",
    ENTER = "enter",
}

/// The text that the server loads.
pub(crate) static LIBRARY: LazyLock<String> = LazyLock::new(|| {
    let version = &*VERSION;
    format!("#!lua name=tidegate_{version}\n{}", body(version))
});

/// A hash of everything in the library: FNV-1a, for it has to tell texts apart and needs no more.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", body("").bytes().fold(0xcbf2_9ce4_8422_2325, hash))
});

impl Operation {
    /// As the server knows it.
    pub fn function(self) -> String {
        format!("tidegate_{}_{}", self.name, *VERSION)
    }

    /// Its entry in the table of operations, with what it alone uses.
    fn made(self) -> String {
        let (_, text) = self.text.split_once('\n').unwrap_or_default();
        format!("do\n{text}\nend\n")
    }

    fn registered(self, version: &str) -> String {
        let (first, _) = self.text.split_once('\n').unwrap_or_default();
        let flags = first.trim_start_matches("-- flags:").split_whitespace();
        let flags: Vec<_> = flags.map(|flag| format!("'{flag}'")).collect();
        format!(
            "redis.register_function{{function_name='tidegate_{name}_{version}', flags={{{flags}}}, \
             callback=function(keys, args)\noperations = operations or make()\n\
             operations.{begin}\nreturn operations.{name}()\nend}}\n",
            name = self.name,
            begin = match self.name {
                // These are about no queue.
                "pulse" | "enter" => "take(keys, args)",
                // These look into generations of names.
                "submit" | "handover" => "begin(keys, args, true)",
                _ => "begin(keys, args)",
            },
            flags = flags.join(",")
        )
    }
}

/// While it loads a library the server has neither Lua's own libraries nor its own: everything is made at the first call.
fn body(version: &str) -> String {
    let each = |of: &dyn Fn(&Operation) -> String| OPERATIONS.iter().map(of).collect::<String>();
    format!(
        "local operations\nlocal function make()\n{}{}\nlocal made = {{begin = begin, take = take}}\n{}return made\nend\n{}",
        defaults(),
        PARTS.join("\n"),
        each(&|operation| operation.made()),
        each(&|operation| operation.registered(version)),
    )
}

/// The policy of a queue without a record, so that its numbers are written down in one place only.
fn defaults() -> String {
    let default = Policy::default();
    let names = policy::numbers(&default, 0)
        .map(|(name, _)| format!("'{name}'"))
        .join(",");
    let values = policy::numbers_text(&default, 0);
    format!("local POLICY_FIELDS, POLICY_DEFAULTS = {{{names}}}, '{values}'\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_first_what_it_may_do() {
        for operation in OPERATIONS {
            assert!(operation.text.starts_with("-- flags:"), "{}", operation.name);
        }
    }
}
