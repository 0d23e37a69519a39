//! The file of policies that a new ledger is filled from.

use std::path::PathBuf;

use tidegate_protocol::policy_file::PolicyFile;

use crate::ledger::{Note, Row, Stored};

/// See the [module](self).
pub struct Seed {
    pub path: PathBuf,
    pub file: PolicyFile,
    /// What the file says wins over what the ledger has: where the file is the place to edit.
    pub wins: bool,
}

impl Seed {
    /// What the ledger is to have. A ledger that was edited before is left alone, and what differs is said.
    pub fn rows(&self, stored: &Stored) -> Vec<Row> {
        let resources = self.file.resources.iter().filter_map(|resource| {
            let known = stored.resources.get(&resource.name);
            let differs = known.is_none_or(|(known, _)| known != resource);
            differs.then(|| Row::Resource {
                resource: resource.clone(),
                revision: known.map_or(0, |(_, revision)| *revision) + 1,
            })
        });
        let queues = self.file.queues.iter().filter_map(|entry| {
            let known = stored.policies.get(&entry.queue);
            let differs = known.is_none_or(|known| known.policy != entry.policy || known.removing);
            differs.then(|| Row::Policy {
                queue: entry.queue.clone(),
                revision: known.map_or(0, |known| known.revision) + 1,
                policy: entry.policy.clone(),
                removing: false,
            })
        });
        let rows: Vec<Row> = resources.chain(queues).collect();
        if rows.is_empty() || self.wins || stored.edits == 0 {
            return rows;
        }
        let names: Vec<&str> = rows.iter().map(Row::subject).collect();
        tracing::warn!(
            file = %self.path.display(),
            differs = names.join(", "),
            "the ledger differs from the policies file, and the ledger is in force: `tidegate control policy apply` takes the file's"
        );
        Vec::new()
    }

    pub fn note(&self) -> Note {
        Note {
            who: "controller start".to_owned(),
            why: format!("policies file {}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::policy_file;

    use super::*;
    use crate::ledger::StoredPolicy;

    fn seed(wins: bool) -> Seed {
        let text = "[resources.pg]\ncapacity = 50\n[queues.a]\ncosts = { pg = 1 }\nmax = 9\n";
        Seed {
            path: "policies.toml".into(),
            file: policy_file::parse(text).unwrap(),
            wins,
        }
    }

    #[test]
    fn a_new_ledger_is_filled_and_an_edited_one_left_alone() {
        let rows = seed(false).rows(&Stored::default());
        let subjects: Vec<&str> = rows.iter().map(Row::subject).collect();
        assert_eq!(subjects, ["pg", "a"], "resources first: policies cost them");
        let edited = Stored {
            edits: 3,
            ..Stored::default()
        };
        assert_eq!(seed(false).rows(&edited), []);
        assert_eq!(seed(true).rows(&edited).len(), 2);
    }

    #[test]
    fn a_file_that_wins_writes_what_differs_with_the_next_revision() {
        let seed = seed(true);
        let mut policy = seed.file.queues[0].policy.clone();
        policy.max = 3;
        let mut stored = Stored {
            edits: 3,
            ..Stored::default()
        };
        let resource = seed.file.resources[0].clone();
        stored.resources.insert("pg".into(), (resource, 2));
        let known = StoredPolicy {
            policy,
            revision: 4,
            removing: false,
        };
        stored.policies.insert("a".parse().unwrap(), known);
        let rows = seed.rows(&stored);
        assert!(
            matches!(rows.as_slice(), [Row::Policy { revision: 5, .. }]),
            "{rows:?}"
        );
    }
}
