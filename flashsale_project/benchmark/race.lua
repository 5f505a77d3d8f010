-- The race for wrk: each item from FIRST up to LAST is asked for once, in random order, and every code that is
-- received is bought next. When all are bought it prints JSON and stops; whoever started wrk interrupts it then.
-- Where nothing is left to ask, nobody, who is user 0, asks for an item that is gone: wrk must send something.
local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanoseconds; } moment; int clock_gettime(int, moment *);")
local MONOTONIC = 1
local moment = ffi.new("moment")

local function now()
  ffi.C.clock_gettime(MONOTONIC, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

function init()
  math.randomseed(os.time())
  local first_item, last_item = tonumber(os.getenv("FIRST")), tonumber(os.getenv("LAST"))
  order, asked = {}, 0
  for item = first_item, last_item do
    local place = math.random(1, #order + 1)
    order[#order + 1] = order[place]
    order[place] = item
  end
  codes, first, last, is_tried = {}, 1, 0, false
  held, bought, refused, failed, began = 0, 0, 0, 0, nil
end

local function post(target)
  return "POST " .. target .. " HTTP/1.1\r\nHost: localhost\r\n\r\n"
end

function request()
  if not is_tried then  -- wrk calls it once to see what it gives, and sends nothing
    is_tried = true
    return post("/checkout")
  end
  began = began or now()
  if first <= last then
    local code = codes[first]
    codes[first] = nil
    first = first + 1
    return post("/purchase?code=" .. code)
  end
  if asked == #order then
    return post("/checkout?user_id=0&item_id=" .. order[1])
  end
  asked = asked + 1
  return post("/checkout?user_id=" .. math.random(1, 1000000000) .. "&item_id=" .. order[asked])
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
  if bought == #order and began then
    io.write(string.format(
      '{"seconds": %.6f, "held": %d, "bought": %d, "refused": %d, "failed": %d}\n',
      now() - began, held, bought, refused, failed))
    io.flush()
    began = false
    wrk.thread:stop()
  end
end
