//! What calls came to, told to whoever measures: this crate knows no metrics.

use std::{fmt, sync::Arc, time::Duration};

use tonic::{Code, Status};

use crate::deadline::Stopwatch;

/// One call that has ended. A retry is a call of its own; a stream ends when it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CallEnd {
    /// `tidegate.v1.JobService/GetJob`
    pub method: &'static str,
    /// CANCELLED where this side gave it up, also because it took too long.
    pub code: Code,
    pub took: Duration,
}

/// Is called on the task that made the call: it must not block. The default tells nobody.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<dyn Fn(CallEnd) + Send + Sync>>);

impl Observer {
    pub fn new(tell: impl Fn(CallEnd) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// A call begins now.
    #[must_use]
    pub fn begin(&self, method: &'static str) -> Observed {
        Observed {
            observer: self.clone(),
            method,
            since: Stopwatch::start(),
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}

/// A call that goes on. Dropped, it was given up.
#[derive(Debug)]
pub struct Observed {
    observer: Observer,
    method: &'static str,
    since: Stopwatch,
}

impl Observed {
    pub fn end(mut self, code: Code) {
        self.tell(code);
    }

    /// With what it answered.
    pub fn ended<T>(self, answer: &Result<T, Status>) {
        self.end(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
    }

    fn tell(&mut self, code: Code) {
        let Some(tell) = self.observer.0.take() else {
            return;
        };
        tell(CallEnd {
            method: self.method,
            code,
            took: self.since.elapsed(),
        });
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.tell(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn each_call_is_told_of_once() {
        let told: Arc<Mutex<Vec<(&str, Code)>>> = Arc::default();
        let kept = told.clone();
        let observer = Observer::new(move |end: CallEnd| {
            kept.lock().expect("nothing panics").push((end.method, end.code));
        });
        observer.begin("a").ended(&Ok(()));
        observer.begin("b").ended::<()>(&Err(Status::unavailable("gone")));
        drop(observer.begin("c"));
        Observer::default().begin("d").end(Code::Ok);
        let told = told.lock().expect("nothing panics").clone();
        let expected = [("a", Code::Ok), ("b", Code::Unavailable), ("c", Code::Cancelled)];
        assert_eq!(told, expected);
    }
}
