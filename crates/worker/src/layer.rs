//! tower around handlers: a handler is a service of [`Job`], and a layer goes around one handler or around all.

use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use async_trait::async_trait;
use tower::{Layer, Service, ServiceExt};

use crate::{BoxError, Delivery, Handler, Job, JobError, Verdict};

/// What runs a queue's jobs, as tower sees it: never busy, never failing. What a layer makes of it may be both: a service
/// that is not ready makes the attempt wait (its timeout runs), and an error is a retry.
#[derive(Clone)]
pub struct JobService(Arc<dyn Delivery>);

impl Service<Job> for JobService {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Verdict, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Self::Future {
        let delivery = Arc::clone(&self.0);
        Box::pin(async move { Ok(delivery.deliver(job).await) })
    }
}

impl fmt::Debug for JobService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobService")
    }
}

/// A layer for jobs: any tower layer whose service takes a [`Job`] and answers with a [`Verdict`], such as
/// `tower::timeout::TimeoutLayer` or `tower::limit::GlobalConcurrencyLimitLayer`. Layers that are given one by one each see
/// a service that is always ready; where one must see that the other is not (load shedding around a limit), give them as
/// one: a `tower::ServiceBuilder`, or a tuple with the outermost first.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no layer for jobs",
    label = "does not make a service of `Job`",
    note = "it must be a `tower::Layer<JobService>` whose service is `Service<Job, Response = Verdict>`, `Clone` and `Send`, \
            with an error that converts into a boxed one and a future that is `Send`"
)]
pub trait JobLayer: Send + Sync + 'static {
    /// Puts itself around `inner`; called once for each queue.
    fn around(&self, inner: Arc<dyn Delivery>) -> Arc<dyn Delivery>;
}

impl<L> JobLayer for L
where
    L: Layer<JobService> + Send + Sync + 'static,
    L::Service:
        Service<Job, Response = Verdict, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
{
    fn around(&self, inner: Arc<dyn Delivery>) -> Arc<dyn Delivery> {
        Arc::new(Served(Mutex::new(self.layer(JobService(inner)))))
    }
}

/// A service as a delivery. A service is driven by one caller, so each attempt has a clone.
struct Served<V>(Mutex<V>);

#[async_trait]
impl<V> Delivery for Served<V>
where
    V: Service<Job, Response = Verdict, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
{
    async fn deliver(&self, job: Job) -> Verdict {
        let service = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match service.oneshot(job).await {
            Ok(verdict) => verdict,
            Err(error) => JobError::of_boxed(error.into()).into(),
        }
    }
}

/// What a handler is of, without owning any of it.
type Of<S, T, M> = PhantomData<fn() -> (S, T, M)>;

/// A handler with a layer around it; see [`Handler::layer`].
pub struct Layered<L, H, S, T, M> {
    layer: L,
    handler: H,
    of: Of<S, T, M>,
}

impl<L, H, S, T, M> Layered<L, H, S, T, M> {
    pub(crate) fn new(layer: L, handler: H) -> Self {
        Self {
            layer,
            handler,
            of: PhantomData,
        }
    }
}

impl<L, H, S, T, M> Handler<S, T, M> for Layered<L, H, S, T, M>
where
    L: JobLayer,
    H: Handler<S, T, M>,
    S: 'static,
    T: 'static,
    M: 'static,
{
    fn into_delivery(self, state: S) -> Arc<dyn Delivery> {
        self.layer.around(self.handler.into_delivery(state))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_protocol::domain::{FailureClass, Outcome};
    use tower::{limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer};

    use super::*;
    use crate::JobContext;

    fn job() -> Job {
        let id = "email:0:00000000000000000000000000000001".parse().expect("valid");
        Job {
            context: JobContext::for_test(id),
            payload: "1".into(),
        }
    }

    /// Held until the test lets it go on.
    async fn held(ctx: JobContext) -> Result<&'static str, JobError> {
        ctx.cancelled().await;
        Ok("done")
    }

    #[tokio::test(start_paused = true)]
    async fn towers_timeout_is_a_retry() {
        let handler = Handler::<(), u32, _>::layer(held, TimeoutLayer::new(Duration::from_secs(1)));
        let verdict = handler.into_delivery(()).deliver(job()).await;
        assert!(
            matches!(&verdict.outcome, Outcome::Retry { error, .. } if error.contains("timed out")),
            "{verdict:?}"
        );
        assert_eq!(verdict.class, Some(FailureClass::Error));
    }

    #[tokio::test(start_paused = true)]
    async fn a_concurrency_limit_is_shared_by_all_attempts() {
        let limited = Handler::<(), u32, _>::layer(held, ConcurrencyLimitLayer::new(1)).into_delivery(());
        let (first, second) = (job(), job());
        let (let_first, let_second) = (first.context.token(), second.context.token());
        let_second.cancel();
        let steps = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let_first.cancel();
        };
        let started = tidegate_chassis::clock::now();
        let (_, verdict, ()) = tokio::join!(limited.deliver(first), limited.deliver(second), steps);
        assert_eq!(verdict, Verdict::succeeded("\"done\""));
        assert!(
            started.elapsed() >= Duration::from_secs(1),
            "the second waited for the first"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_sheds_says_overload() {
        let layers = (LoadShedLayer::new(), ConcurrencyLimitLayer::new(1)); // the first is the outermost
        let shedding = Handler::<(), u32, _>::layer(held, layers).into_delivery(());
        let first = job();
        let let_go = first.context.token();
        let second = async {
            let verdict = shedding.deliver(job()).await;
            let_go.cancel();
            verdict
        };
        let (_, verdict) = tokio::join!(shedding.deliver(first), second);
        assert_eq!(verdict.class, Some(FailureClass::Overload), "{verdict:?}");
    }
}
