-- Ask for the same path again and again and print the result as one line of JSON.
wrk.path = "/hello"

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    '{"seconds": %.6f, "messages": %d, "bytes": %d, "p50_us": %.2f, "p99_us": %.2f, "p999_us": %.2f, "failures": %d}',
    summary.duration / 1e6, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
