// graphile-worker 0.18 with its local queue, which is what its documentation advises for throughput.
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { main } from './adapter.mjs';

const quiet = new Logger(() => (level, message) => {
  if (level === 'error') console.error(message);
});
const connectionString = process.env.DATABASE_URL;

await main({
  async open() {
    const pgPool = new pg.Pool({ connectionString, max: 10 });
    const utils = await makeWorkerUtils({ pgPool });
    await utils.migrate();
    return {
      add: (jobs) =>
        jobs.length === 1
          ? utils.addJob('job', jobs[0])
          : utils.addJobs(jobs.map((payload) => ({ identifier: 'job', payload }))),
      async close() {
        await utils.release();
        await pgPool.end();
      },
    };
  },
  async run(concurrency, handler) {
    const runner = await run({
      connectionString,
      noHandleSignals: true,
      maxPoolSize: 10,
      taskList: { job: handler },
      logger: quiet,
      preset: { worker: { concurrentJobs: concurrency, localQueue: { size: 500 } } },
    });
    return () => runner.stop();
  },
});
