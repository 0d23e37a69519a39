// BullMQ 6, defaults but `removeOnComplete`. LIMITS=1 adds its global concurrency and its rate limiter, far above the load.
import { Queue, Worker } from 'bullmq';
import IORedis from 'ioredis';
import { main } from './adapter.mjs';

const connection = () => new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const limits = process.env.LIMITS === '1';

await main({
  async open() {
    const queue = new Queue('bench', {
      connection: connection(),
      defaultJobOptions: { removeOnComplete: true },
    });
    if (limits) await queue.setGlobalConcurrency(1000);
    return {
      add: (jobs) =>
        jobs.length === 1
          ? queue.add('job', jobs[0])
          : queue.addBulk(jobs.map((data) => ({ name: 'job', data }))),
      close: () => queue.close(),
    };
  },
  async run(concurrency, handler) {
    const limiter = limits ? { limiter: { max: 10_000_000, duration: 1000 } } : {};
    const worker = new Worker('bench', (job) => handler(job.data), {
      connection: connection(),
      concurrency,
      ...limiter,
    });
    await worker.waitUntilReady();
    return () => worker.close(true);
  },
});
