//! Looking at queues and pausing them.

use tidegate_protocol::v1;

use crate::{Client, ClientError, QueuePage, QueueView, client::queues, view::set};

impl Client {
    /// `page_size` 0 = 100, at most 1,000; `page_token` is empty or the previous page's.
    pub async fn list_queues(
        &self,
        page_size: u32,
        page_token: impl Into<String>,
    ) -> Result<QueuePage, ClientError> {
        let page_size = i32::try_from(page_size).unwrap_or(i32::MAX);
        let request = v1::ListQueuesRequest {
            page_size,
            page_token: page_token.into(),
        };
        let send = |channel, request| async move { queues(channel).list_queues(request).await };
        let response = self
            .caller
            .call(
                self.read_plan("tidegate.v1.QueueService/ListQueues"),
                request,
                send,
            )
            .await?;
        Ok(QueuePage {
            queues: response
                .queues
                .into_iter()
                .map(QueueView::try_from)
                .collect::<Result<_, _>>()?,
            next_page_token: set(response.next_page_token),
        })
    }

    pub async fn get_queue(&self, name: impl Into<String>) -> Result<QueueView, ClientError> {
        let request = v1::GetQueueRequest { name: name.into() };
        let send = |channel, request| async move { queues(channel).get_queue(request).await };
        queue_of(
            self.caller
                .call(self.read_plan("tidegate.v1.QueueService/GetQueue"), request, send)
                .await?
                .queue,
        )
    }

    /// Grants nothing more; what runs goes on; submits are taken.
    pub async fn pause_queue(&self, name: impl Into<String>) -> Result<QueueView, ClientError> {
        let request = v1::PauseQueueRequest { name: name.into() };
        let send = |channel, request| async move { queues(channel).pause_queue(request).await };
        // Paused twice is paused: safe to repeat.
        queue_of(
            self.caller
                .call(
                    self.read_plan("tidegate.v1.QueueService/PauseQueue"),
                    request,
                    send,
                )
                .await?
                .queue,
        )
    }

    pub async fn resume_queue(&self, name: impl Into<String>) -> Result<QueueView, ClientError> {
        let request = v1::ResumeQueueRequest { name: name.into() };
        let send = |channel, request| async move { queues(channel).resume_queue(request).await };
        queue_of(
            self.caller
                .call(
                    self.read_plan("tidegate.v1.QueueService/ResumeQueue"),
                    request,
                    send,
                )
                .await?
                .queue,
        )
    }
}

fn queue_of(queue: Option<v1::Queue>) -> Result<QueueView, ClientError> {
    queue
        .ok_or_else(|| ClientError::bad_answer("no queue in it"))?
        .try_into()
}
