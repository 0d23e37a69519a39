//! Many rows in one statement. Each statement costs two hand-offs between threads, so rows are cheap and statements are
//! not; and texts are few, so that each is prepared once.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    task::Poll,
};

use futures_util::poll;

use sqlx::{Arguments as _, Encode, Sqlite, SqliteConnection, Type, sqlite::SqliteArguments};

/// Rows of a statement: the smallest that is enough. Places that are left over are NULL, and no rows.
const SIZES: [usize; 3] = [8, 64, 512];
const ROWS_MAX: usize = SIZES[SIZES.len() - 1];
/// What the large values of a statement may come to, as they are copied for it; one row may be larger.
const BYTES_MAX: usize = 4 << 20;
/// Numbers of rows that one statement deletes.
const DELETES_MAX: usize = 4_096;

/// Values of one statement.
#[derive(Default)]
pub(super) struct Values {
    arguments: SqliteArguments,
    bytes: usize,
}

impl Values {
    pub fn put<'v>(&mut self, value: impl Encode<'v, Sqlite> + Type<Sqlite>) -> sqlx::Result<&mut Self> {
        self.arguments.add(value).map_err(sqlx::Error::Encode)?;
        Ok(self)
    }

    pub fn put_blob(&mut self, value: &[u8]) -> sqlx::Result<&mut Self> {
        self.bytes += value.len();
        self.put(value)
    }
}

/// One statement, or several in a row.
pub(super) struct Statement {
    text: &'static str,
    values: Values,
}

impl Statement {
    pub fn new(text: &'static str) -> Self {
        Self::with(text, Values::default())
    }

    pub fn with(text: &'static str, values: Values) -> Self {
        Self { text, values }
    }

    pub async fn run(self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        let query = sqlx::query_with(self.text, self.values.arguments);
        query.execute(connection).await?;
        Ok(())
    }
}

/// Runs one after the other, up to the first that fails.
pub(super) async fn run_all(
    connection: &mut SqliteConnection,
    mut statements: impl Iterator<Item = sqlx::Result<Statement>>,
) -> sqlx::Result<()> {
    let mut next = statements.next();
    while let Some(statement) = next {
        let mut running = pin!(statement?.run(connection));
        // Once it is handed over it runs on another thread, and meanwhile the next is put together here.
        let done = poll!(&mut running);
        next = statements.next();
        match done {
            Poll::Ready(done) => done?,
            Poll::Pending => running.await?,
        }
    }
    Ok(())
}

/// A statement about many rows.
pub(super) struct Many {
    head: &'static str,
    about: About,
    columns: usize,
    texts: OnceLock<[String; SIZES.len()]>,
}

enum About {
    /// Rows that go into a table; the first column is never NULL.
    New,
    /// Rows that leave, by these columns. Alternatives, not a list of rows: for that SQLite walks over the whole table.
    Gone(&'static [&'static str]),
}

impl Many {
    /// `head`: up to the values.
    pub const fn insert(head: &'static str, columns: usize) -> Self {
        Self {
            head,
            about: About::New,
            columns,
            texts: OnceLock::new(),
        }
    }

    /// `head`: up to the condition.
    pub const fn delete(head: &'static str, by: &'static [&'static str]) -> Self {
        Self {
            head,
            about: About::Gone(by),
            columns: by.len(),
            texts: OnceLock::new(),
        }
    }

    fn text(&'static self, rows: usize) -> &'static str {
        let texts = self.texts.get_or_init(|| SIZES.map(|size| self.text_of(size)));
        let size = SIZES.iter().position(|&size| size >= rows);
        &texts[size.unwrap_or(SIZES.len() - 1)]
    }

    fn text_of(&self, rows: usize) -> String {
        let head = self.head;
        match self.about {
            About::New => {
                let row = format!("({})", vec!["?"; self.columns].join(","));
                let rows = vec![row; rows].join(",");
                format!("{head} SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL")
            }
            About::Gone(by) => {
                let row = format!("({} = ?)", by.join(" = ? AND "));
                format!("{head} {}", vec![row; rows].join(" OR "))
            }
        }
    }

    /// For `rows`, whose values `put` adds in the order of the columns.
    pub fn of<T>(&'static self, rows: Vec<T>, put: fn(&mut Values, &T) -> sqlx::Result<()>) -> ManyOf<T> {
        ManyOf {
            many: self,
            rows,
            done: 0,
            put,
        }
    }
}

pub(super) struct ManyOf<T> {
    many: &'static Many,
    rows: Vec<T>,
    done: usize,
    put: fn(&mut Values, &T) -> sqlx::Result<()>,
}

impl<T> ManyOf<T> {
    fn make(&mut self) -> sqlx::Result<Statement> {
        let left = &self.rows[self.done..];
        let most = left.len().min(ROWS_MAX);
        let mut values = Values::default();
        values.arguments.reserve(most * self.many.columns, 0);
        let mut taken = 0;
        while taken < most && values.bytes < BYTES_MAX {
            (self.put)(&mut values, &left[taken])?;
            taken += 1;
        }
        self.done += taken;
        Ok(Statement::with(self.many.text(taken), values))
    }
}

impl<T> Iterator for ManyOf<T> {
    type Item = sqlx::Result<Statement>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.done < self.rows.len()).then(|| self.make())
    }
}

/// Statements that delete the rows with these numbers; `text` takes a JSON array of them as many times as `lists` says.
pub(super) fn delete(
    text: &'static str,
    lists: usize,
    ids: Vec<i64>,
) -> impl Iterator<Item = sqlx::Result<Statement>> {
    (0..ids.len()).step_by(DELETES_MAX).map(move |at| {
        let ids = &ids[at..ids.len().min(at + DELETES_MAX)];
        let numbers: Vec<_> = ids.iter().map(i64::to_string).collect();
        let list: Arc<str> = format!("[{}]", numbers.join(",")).into();
        let mut values = Values::default();
        for _ in 0..lists {
            values.put(list.clone())?;
        }
        Ok(Statement::with(text, values))
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, Row as _};

    use super::*;

    static INSERT: Many = Many::insert("INSERT INTO t", 2);
    static DELETE: Many = Many::delete("DELETE FROM t WHERE", &["a", "b"]);

    fn put(values: &mut Values, (a, b): &(i64, Option<i64>)) -> sqlx::Result<()> {
        values.put(*a)?.put(*b)?;
        Ok(())
    }

    async fn all(connection: &mut SqliteConnection) -> Vec<(i64, Option<i64>)> {
        let rows = sqlx::query("SELECT a, b FROM t ORDER BY a").fetch_all(connection);
        let rows = rows.await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    #[tokio::test]
    async fn any_number_of_rows_goes_in_and_out_again() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let connection = &mut connection;
        let create = "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER)";
        Statement::new(create).run(connection).await.unwrap();
        for n in [0, 1, 8, 9, 64, 65, 512, 513, 1_100] {
            // A NULL that is not the first column is a value like others.
            let rows: Vec<_> = (1..=n).map(|a| (a, (a % 7 != 0).then_some(-a))).collect();
            run_all(connection, INSERT.of(rows.clone(), put)).await.unwrap();
            assert_eq!(all(connection).await, rows, "{n}");
            let (odd, even): (Vec<_>, Vec<_>) = rows.iter().partition(|(a, _)| a % 2 == 1);
            let ids: Vec<_> = odd.iter().map(|(a, _)| *a).collect();
            let text = "DELETE FROM t WHERE a IN (SELECT value FROM json_each(?))";
            run_all(connection, delete(text, 1, ids)).await.unwrap();
            assert_eq!(all(connection).await, even, "{n}");
            run_all(connection, DELETE.of(even.clone(), put)).await.unwrap();
            let unequal: Vec<_> = even.into_iter().filter(|(_, b)| b.is_none()).collect();
            assert_eq!(all(connection).await, unequal, "NULL equals nothing");
            Statement::new("DELETE FROM t").run(connection).await.unwrap();
        }
    }

    #[tokio::test]
    async fn large_values_are_split_over_several_statements() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let connection = &mut connection;
        let create = "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)";
        Statement::new(create).run(connection).await.unwrap();
        let rows: Vec<_> = (1..=20).map(|n| (n, vec![0; BYTES_MAX / 3])).collect();
        let put = |values: &mut Values, (a, b): &(i64, Vec<u8>)| {
            values.put(*a)?.put_blob(b)?;
            Ok(())
        };
        run_all(connection, INSERT.of(rows.clone(), put)).await.unwrap();
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t WHERE length(b) > 1000");
        assert_eq!(count.fetch_one(connection).await.unwrap(), 20);
    }
}
