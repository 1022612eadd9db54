-- Judges requests of one tenant against its limits, all in one step, and counts those that are let through.
-- The rules are those of router/warmroute/tenants/window.py and limits.py.
--
-- KEYS: two a scope: its sums, and its routers' requests under way.
-- ARGV: this router's name; milliseconds for which its requests under way count unless it says so again;
--   a scope: 7 limits (0: none; money in billionths) and how many requests this router has under way in it;
--   the number of charges, and of each: scope, requests, tokens, money, milliseconds when they were taken (0: now);
--   the number of requests, and of each: a bit for every scope that it counts in, tokens, money.
-- Replies: the time in milliseconds; of each request: scope and limit that refuse it (0, 0: none) and how many
-- milliseconds that lasts; then what each scope has used, by limit.
local call, floor, max = redis.call, math.floor, math.max
local PARTS = 60
-- Limits of time by number, then that of requests under way.
local SPANS = {60000, 86400000, 60000, 86400000, 86400000, 2592000000}
local WINDOWS, CONCURRENT = #SPANS, #SPANS + 1
local BUSY_MS = 1000
-- No limit on money is larger; an amount that is counts as this.
local MOST = 1e15
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
local at = 0
-- Of the limit of this number, what so many requests, tokens and so much money take.
local function amount_of(w, requests, tokens, money)
  return w < 3 and requests or w < 5 and tokens or money
end
local function next_word()
  at = at + 1
  return ARGV[at]
end
local function next_number()
  return tonumber(next_word())
end

local router = next_word()
local lease = next_number()
local scopes = {}
for s = 1, #KEYS / 2 do
  local scope = {key = KEYS[2 * s - 1], ways = KEYS[2 * s], limits = {}, totals = {}, parts = {}, own = 0, others = 0}
  for w = 1, CONCURRENT do
    scope.limits[w] = next_number()
  end
  scope.own = next_number()
  scopes[s] = scope
end

local function field(w, part)
  return w .. ':' .. (part % (PARTS + 1))
end

-- Lets go of what has left a window.
local function roll(scope, w)
  local part = floor(now / (SPANS[w] / PARTS))
  local known = call('HMGET', scope.key, w .. 't', w .. 'p')
  local total, last = tonumber(known[1] or 0), tonumber(known[2] or part)
  if part > last then
    local gone = {}
    for number = last + 1, math.min(part, last + PARTS + 1) do
      gone[#gone + 1] = field(w, number)
    end
    if #gone > PARTS then
      total = 0
    else
      for _, count in ipairs(call('HMGET', scope.key, unpack(gone))) do
        total = total - tonumber(count or 0)
      end
    end
    call('HDEL', scope.key, unpack(gone))
  elseif part < last - PARTS then
    -- The clock was set back: all of it counts as of now.
    local all = {}
    for number = 0, PARTS do
      all[#all + 1] = field(w, number)
    end
    call('HDEL', scope.key, unpack(all))
    call('HSET', scope.key, field(w, part), string.format('%.0f', total))
    last = part
  end
  part = max(part, last)
  call('HSET', scope.key, w .. 't', total, w .. 'p', part)
  scope.totals[w], scope.parts[w] = total, part
end

local function add(scope, w, amount, part)
  amount = max(-MOST, math.min(amount, MOST))
  -- In full: some servers write a large number as 1e+17, and take no such.
  call('HINCRBY', scope.key, field(w, part), string.format('%.0f', amount))
  scope.totals[w] = scope.totals[w] + amount
  call('HSET', scope.key, w .. 't', scope.totals[w])
end

local function wait(scope, w, amount)
  local excess = scope.totals[w] + amount - scope.limits[w]
  if excess <= 0 then
    return 0
  end
  local part_ms, last = SPANS[w] / PARTS, scope.parts[w]
  local names = {}
  for number = last - PARTS, last do
    names[#names + 1] = field(w, number)
  end
  for index, count in ipairs(call('HMGET', scope.key, unpack(names))) do
    excess = excess - tonumber(count or 0)
    if excess <= 0 then
      return max(1, (last - PARTS + index + PARTS) * part_ms - now)
    end
  end
  return part_ms * (PARTS + 1)
end

for _, scope in ipairs(scopes) do
  for w = 1, WINDOWS do
    if scope.limits[w] > 0 then
      roll(scope, w)
    end
  end
  if scope.limits[CONCURRENT] > 0 then
    local ways = call('HGETALL', scope.ways)
    for index = 1, #ways, 2 do
      local count, until_ms = string.match(ways[index + 1], '^(%d+) (%d+)$')
      -- Of a lease that ends so late the clock was set back: nobody renews it.
      if tonumber(until_ms) < now or tonumber(until_ms) > now + 2 * lease then
        call('HDEL', scope.ways, ways[index])
      elseif ways[index] ~= router then
        scope.others = scope.others + tonumber(count)
      end
    end
  end
end

for _ = 1, next_number() do
  local scope, requests, tokens = scopes[next_number()], next_number(), next_number()
  local money, when = next_number(), next_number()
  for w = 1, WINDOWS do
    local amount = amount_of(w, requests, tokens, money)
    if amount ~= 0 and scope.limits[w] > 0 then
      local part = scope.parts[w]
      if amount < 0 and when > 0 then
        part = floor(when / (SPANS[w] / PARTS))
      end
      if part >= scope.parts[w] - PARTS and part <= scope.parts[w] then
        add(scope, w, amount, part)
      end
    end
  end
end

local reply = {now}
for _ = 1, next_number() do
  local bits, tokens, money = next_number(), next_number(), next_number()
  local whose, which, wait_ms = 0, 0, 0
  for s, scope in ipairs(scopes) do
    if whose == 0 and floor(bits / 2 ^ (s - 1)) % 2 == 1 then
      for w = 1, CONCURRENT do
        local limit = scope.limits[w]
        if whose == 0 and limit > 0 then
          local ms = 0
          if w <= WINDOWS then
            local amount = amount_of(w, 1, tokens, money)
            -- What costs nothing is not held against money.
            if w < 5 or amount > 0 then
              ms = wait(scope, w, amount)
            end
          elseif scope.own + scope.others >= limit then
            ms = BUSY_MS
          end
          if ms > 0 then
            whose, which, wait_ms = s, w, floor(ms)
          end
        end
      end
    end
  end
  if whose == 0 then
    for s, scope in ipairs(scopes) do
      if floor(bits / 2 ^ (s - 1)) % 2 == 1 then
        scope.own = scope.own + 1
        for w = 1, WINDOWS do
          if scope.limits[w] > 0 then
            add(scope, w, amount_of(w, 1, tokens, money), scope.parts[w])
          end
        end
      end
    end
  end
  reply[#reply + 1] = whose
  reply[#reply + 1] = which
  reply[#reply + 1] = wait_ms
end

for _, scope in ipairs(scopes) do
  for w = 1, WINDOWS do
    reply[#reply + 1] = scope.totals[w] or 0
  end
  reply[#reply + 1] = scope.own + scope.others
  if scope.limits[CONCURRENT] > 0 then
    if scope.own > 0 then
      call('HSET', scope.ways, router, string.format('%d %.0f', scope.own, now + lease))
      call('PEXPIRE', scope.ways, lease)
    else
      call('HDEL', scope.ways, router)
    end
  end
  local longest = SPANS[1]
  for w = 1, WINDOWS do
    if scope.limits[w] > 0 then
      longest = max(longest, SPANS[w])
    end
  end
  call('PEXPIRE', scope.key, longest + longest / PARTS)
end
return reply
