-- Notes or withdraws one holder in the records KEYS, atomically per record. Format: router/warmroute/wire/registry_record.py.
--
-- ARGV[1] with 10 bytes is an entry to note; ARGV[2] is then the record's new lifetime in milliseconds. With ARGV[3] a
-- lifetime that is longer already stays.
-- ARGV[1] with 6 bytes is an incarnation to withdraw where it was not noted later than the 4 bytes of ARGV[2]; a record
-- without holders is deleted.
local sub, call = string.sub, redis.call
local entry = ARGV[1]
local id = sub(entry, 1, 6)
local records = call('MGET', unpack(KEYS))

if #entry == 6 then
  local until_tenths = struct.unpack('>I4', ARGV[2])
  for i, key in ipairs(KEYS) do
    local old = records[i]
    if old then
      for at = 1, #old - 9, 10 do
        if sub(old, at, at + 5) == id then
          if struct.unpack('>I4', sub(old, at + 6, at + 9)) > until_tenths then
            break
          end
          local left = sub(old, 1, at - 1) .. sub(old, at + 10)
          if left == '' then
            call('DEL', key)
          else
            call('SET', key, left, 'KEEPTTL')
          end
          break
        end
      end
    end
  end
  return #KEYS
end

local lifetime = ARGV[2]
for i, key in ipairs(KEYS) do
  local old = records[i]
  local new = entry
  if old and #old % 10 == 0 then
    for at = 1, #old - 9, 10 do
      if sub(old, at, at + 5) == id then
        -- Routers' clocks and queues differ: a holder's time never goes back.
        local noted = struct.unpack('>I4', sub(old, at + 6, at + 9))
        if noted > struct.unpack('>I4', sub(entry, 7)) then
          new = sub(old, at, at + 9)
        end
        old = sub(old, 1, at - 1) .. sub(old, at + 10)
        break
      end
    end
    new = sub(old, -150) .. new
  end
  if ARGV[3] and old and call('PTTL', key) > tonumber(lifetime) then
    call('SET', key, new, 'KEEPTTL')
  else
    call('SET', key, new, 'PX', lifetime)
  end
end
return #KEYS
