-- A crowd for wrk: it asks for random items, and every code it receives is bought next. Prints JSON.
-- ITEMS in the environment is the number of items of the sale. HEADS is "same", or "new": then each request has
-- headers that no other has, as requests have that came through a proxy, of people with cookies.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init()
  math.randomseed(os.time() * 100 + number)
  items = tonumber(os.getenv("ITEMS"))
  has_new_heads = os.getenv("HEADS") == "new"
  codes, first, last = {}, 1, 0
  held, bought, refused, failed = 0, 0, 0, 0
end

local function new_fields()
  local a, b = math.random(0, 2147483647), math.random(0, 2147483647)
  return string.format(
    "X-Request-ID: %08x%08x\r\nX-Forwarded-For: 10.%d.%d.%d\r\nCookie: session=%08x%08x\r\n",
    a, b, a % 256, b % 256, (a + b) % 256, b, a)
end

local function post(target)
  local fields = has_new_heads and new_fields() or ""
  return "POST " .. target .. " HTTP/1.1\r\nHost: localhost\r\n" .. fields .. "\r\n"
end

function request()
  if first <= last then
    local code = codes[first]
    codes[first] = nil
    first = first + 1
    return post("/purchase?code=" .. code)
  end
  return post("/checkout?user_id=" .. math.random(1, 1000000000) .. "&item_id=" .. math.random(0, items - 1))
end

function response(status, headers, body)
  if status == 409 then
    refused = refused + 1
  elseif status == 200 and #body == 36 then
    held = held + 1
    last = last + 1
    codes[last] = body
  elseif status == 200 and body == "purchased" then
    bought = bought + 1
  else
    failed = failed + 1
  end
end

function done(summary, latency, requests)
  local sum = {held = 0, bought = 0, refused = 0, failed = 0}
  for _, thread in ipairs(threads) do
    for name, count in pairs(sum) do
      sum[name] = count + thread:get(name)
    end
  end
  io.write(string.format(
    '{"seconds": %.6f, "held": %d, "bought": %d, "refused": %d, "failed": %d, ' ..
    '"p50": %.3f, "p99": %.3f, "p999": %.3f, "maximum": %.3f, ' ..
    '"connect_errors": %d, "read_errors": %d, "write_errors": %d, "timeouts": %d}\n',
    summary.duration / 1e6, sum.held, sum.bought, sum.refused, sum.failed,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    latency.max / 1e3,
    summary.errors.connect, summary.errors.read, summary.errors.write, summary.errors.timeout))
end
