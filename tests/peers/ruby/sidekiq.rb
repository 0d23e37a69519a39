# Sidekiq (Debian's package), defaults. Its client is synchronous: singles go one at a time.
require 'sidekiq'
require 'sidekiq/cli'
require 'json'

STDOUT.sync = true
# Each thread of the server holds a connection; Sidekiq refuses to start with fewer.
Sidekiq.redis = { url: ENV['REDIS_URL'], size: ARGV[0] == 'work' ? ARGV[1].to_i + 5 : 15 }
Sidekiq.logger.level = Logger::ERROR
Redis.silence_deprecations = true if Redis.respond_to?(:silence_deprecations=)

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond)

def payload(id, at = now)
  job = { 'id' => id, 'at' => at.to_s, 'pad' => '' }
  job['pad'] = 'x' * [0, 200 - JSON.generate(job).size].max
  job
end

class BenchJob
  include Sidekiq::Worker
  SLEEP = (ARGV[2] || 0).to_f / 1000
  WAITS = Queue.new

  def perform(job)
    WAITS << (job['at'] == '0' ? nil : (now - job['at'].to_i) / 1e6)
    return if SLEEP.zero?

    puts "start #{job['id']}"
    sleep SLEEP
    puts "end #{job['id']}"
  end
end

def bulk(from, count)
  BenchJob.perform_bulk((from...from + count).map { |id| [payload(id)] })
end

def submit(mode, first, second = 0)
  start = now
  elapsed = -> { (now - start) / 1e9 }
  sent = 0
  case mode
  when 'single'
    (BenchJob.perform_async(payload(sent)); sent += 1) while elapsed.() < first
  when 'bulk'
    (bulk(sent, 500); sent += 500) while elapsed.() < first
  when 'count'
    (size = [500, first.to_i - sent].min; bulk(sent, size); sent += size) while sent < first
  when 'rate'
    # Jobs of the first second have no time: they are the warm-up.
    while sent < first * (1 + second)
      at = start + (sent / first * 1e9).to_i
      left = at - now
      sleep(left / 1e9) if left > 0
      BenchJob.perform_async(payload(sent, sent < first ? 0 : at))
      sent += 1
    end
  end
  puts "submitted #{sent} #{elapsed.()}"
end

def work(concurrency)
  cli = Sidekiq::CLI.instance
  cli.parse(['-c', concurrency, '-q', 'default', '-r', '/dev/null'])
  Sidekiq.on(:startup) { puts 'ready' }
  Thread.new { loop { sleep 0.1; puts "handled #{BenchJob::WAITS.size} #{now}" } }
  at_exit do
    waits = Array.new(BenchJob::WAITS.size) { BenchJob::WAITS.pop }.compact.sort
    at = ->(share) { waits[[waits.size - 1, (waits.size * share).floor].min] || 0 }
    puts "pickup #{at.(0.5)} #{at.(0.99)} #{at.(0.999)} #{at.(1.0)} #{waits.size}"
  end
  cli.run(boot_app: false)
end

case ARGV[0]
when 'submit' then submit(ARGV[1], ARGV[2].to_f, (ARGV[3] || 0).to_f)
when 'work' then work(ARGV[1])
else abort "unknown call #{ARGV[0]}; see ../README.md"
end
