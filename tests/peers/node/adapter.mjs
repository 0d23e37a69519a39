// What the adapters written in JavaScript share: the calls of ../README.md around a peer's two functions.

export const now = () => process.hrtime.bigint();
const say = (line) => process.stdout.write(line + '\n');
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export function payload(id, at = now()) {
  const job = { id, at: at.toString(), pad: '' };
  job.pad = 'x'.repeat(Math.max(0, 200 - JSON.stringify(job).length));
  return job;
}

async function inParallel(lanes, more) {
  await Promise.all(Array.from({ length: lanes }, async () => { while (await more()); }));
}

// Jobs of the first second have no time: they are the warm-up.
async function atRate(rate, seconds, add) {
  const start = now();
  const total = Math.round(rate * (1 + seconds));
  const answers = [];
  for (let sent = 0; sent < total; ) {
    const due = Math.min(total, Math.floor((Number(now() - start) / 1e9) * rate) + 1);
    for (; sent < due; sent++) {
      answers.push(add([payload(sent, sent < rate ? 0n : start + BigInt(Math.round((sent / rate) * 1e9)))]));
    }
    await sleep(0.5);
  }
  await Promise.all(answers);
  return total;
}

// `add(jobs)`: submits one job by the single call, more by the bulk call.
async function submit(add, mode, ...numbers) {
  const start = now();
  const elapsed = () => Number(now() - start) / 1e9;
  let sent = 0;
  if (mode === 'single') {
    await inParallel(64, async () => {
      await add([payload(sent++)]);
      return elapsed() < numbers[0];
    });
  } else if (mode === 'rate') {
    sent = await atRate(numbers[0], numbers[1], add);
  } else {
    const more = () => (mode === 'bulk' ? elapsed() < numbers[0] : sent < numbers[0]);
    while (more()) {
      const size = mode === 'bulk' ? 500 : Math.min(500, numbers[0] - sent);
      await add(Array.from({ length: size }, () => payload(sent++)));
    }
  }
  say(`submitted ${sent} ${elapsed()}`);
}

// `run(concurrency, handler)`: starts the worker and gives back what stops it.
async function work(run, concurrency, sleepMs) {
  let handled = 0;
  const waits = [];
  const stop = await run(concurrency, async (job) => {
    if (job.at !== '0') waits.push(Number(now() - BigInt(job.at)) / 1e6);
    if (sleepMs > 0) {
      say(`start ${job.id}`);
      await sleep(sleepMs);
      say(`end ${job.id}`);
    }
    handled++;
  });
  say('ready');
  const count = () => say(`handled ${handled} ${now()}`);
  const report = setInterval(count, 100);
  await new Promise((done) => process.once('SIGTERM', done));
  clearInterval(report);
  count();
  waits.sort((a, b) => a - b);
  const at = (share) => waits[Math.min(waits.length - 1, Math.floor(waits.length * share))] ?? 0;
  say(`pickup ${at(0.5)} ${at(0.99)} ${at(0.999)} ${at(1)} ${waits.length}`);
  await stop();
}

export async function main({ open, run }) {
  const [call, ...args] = process.argv.slice(2);
  if (call === 'submit') {
    const { add, close } = await open();
    await submit(add, args[0], ...args.slice(1).map(Number));
    await close();
  } else if (call === 'work') {
    await work(run, Number(args[0]), Number(args[1]));
  } else {
    throw new Error(`unknown call ${call}; see ../README.md`);
  }
  process.exit(0);
}
