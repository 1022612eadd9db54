-- Cached contents of all scopes, each call one step. All keys share a hash tag.
-- KEYS[1]: the index of expiries, `PREFIX:x`; the others are named after it:
--   m hash promise -> record, u hash promise -> uses, l hash promise -> given up, b hash scope -> bytes,
--   s:SCOPE sorted set of ids, p:PROMISE the prefix.
-- The prefixes have no expiry of their own: a server that runs full under `volatile-*` then drops records that can be
-- made anew, and not these.
local base = string.sub(KEYS[1], 1, -2)
local op, now = ARGV[1], tonumber(ARGV[2])

local function drop(promise)
  local scope, id = string.match(promise, '^(.*)/([^/]*)$')
  local record = redis.call('HGET', base .. 'm', promise)
  if record then
    local left = redis.call('HINCRBY', base .. 'b', scope, -(cjson.decode(record)['size_bytes'] or 0))
    redis.call('ZREM', base .. 's:' .. scope, id)
    if redis.call('EXISTS', base .. 's:' .. scope) == 0 then redis.call('HDEL', base .. 'b', scope) end
  end
  redis.call('HDEL', base .. 'm', promise)
  redis.call('HDEL', base .. 'u', promise)
  redis.call('HDEL', base .. 'l', promise)
  redis.call('DEL', base .. 'p:' .. promise)
  redis.call('ZREM', KEYS[1], promise)
  return record or ''
end

local function purge()
  for _, promise in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do drop(promise) end
end

local function alive(promise)
  local expires = redis.call('ZSCORE', KEYS[1], promise)
  if not expires then return nil end
  if tonumber(expires) <= now then drop(promise) return nil end
  return redis.call('HGET', base .. 'm', promise)
end

if op == 'add' then
  purge()
  local scope, id, expires, size, most, most_bytes = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
  local held = redis.call('ZCARD', base .. 's:' .. scope)
  local bytes = tonumber(redis.call('HGET', base .. 'b', scope) or '0')
  if held >= tonumber(most) or bytes + tonumber(size) > tonumber(most_bytes) then return {held, bytes} end
  local promise = scope .. '/' .. id
  redis.call('SET', base .. 'p:' .. promise, ARGV[10])
  redis.call('HSET', base .. 'm', promise, ARGV[9])
  redis.call('ZADD', base .. 's:' .. scope, 0, id)
  redis.call('HINCRBY', base .. 'b', scope, size)
  redis.call('ZADD', KEYS[1], expires, promise)
  return {}
elseif op == 'find' then
  local promise = ARGV[3] .. '/' .. ARGV[4]
  local record = alive(promise)
  if not record then return {} end
  local uses = ARGV[5] == '1' and redis.call('HINCRBY', base .. 'u', promise, 1)
    or tonumber(redis.call('HGET', base .. 'u', promise) or '0')
  return {record, uses, redis.call('HEXISTS', base .. 'l', promise)}
elseif op == 'listed' then
  local after = ARGV[4] == '' and '-' or '(' .. ARGV[4]
  local found, at, more = {}, after, true
  while more and #found < tonumber(ARGV[5]) do
    local ids = redis.call('ZRANGEBYLEX', base .. 's:' .. ARGV[3], at, '+', 'LIMIT', 0, 100)
    more = #ids == 100
    for _, id in ipairs(ids) do
      at = '(' .. id
      local record = alive(ARGV[3] .. '/' .. id)
      if record and #found < tonumber(ARGV[5]) then table.insert(found, record) end
    end
  end
  return found
elseif op == 'extend' then
  local promise = ARGV[3] .. '/' .. ARGV[4]
  local before = alive(promise)
  if not before then return '' end
  redis.call('HSET', base .. 'm', promise, ARGV[6])
  redis.call('ZADD', KEYS[1], ARGV[5], promise)
  return before
elseif op == 'remove' then
  return drop(ARGV[3] .. '/' .. ARGV[4])
elseif op == 'all' then
  purge()
  local found = {}
  local promises = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
  for _, promise in ipairs(promises) do
    local record = redis.call('HGET', base .. 'm', promise)
    if record then
      table.insert(found, record)
      table.insert(found, tonumber(redis.call('HGET', base .. 'u', promise) or '0'))
      table.insert(found, redis.call('HEXISTS', base .. 'l', promise))
    end
  end
  return found
elseif op == 'lapse' then
  local promise = ARGV[3] .. '/' .. ARGV[4]
  if ARGV[5] == '1' and redis.call('HEXISTS', base .. 'm', promise) == 1 then
    redis.call('HSET', base .. 'l', promise, 1)
  else
    redis.call('HDEL', base .. 'l', promise)
  end
  return 0
elseif op == 'lead' then
  local leader = redis.call('GET', base .. 'lead')
  if leader and leader ~= ARGV[3] then return 0 end
  redis.call('SET', base .. 'lead', ARGV[3], 'PX', ARGV[4])
  return 1
end
return redis.error_reply('ERR no such call')
