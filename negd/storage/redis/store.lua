-- What the server does in one step, and the keys that it keeps: run as
-- EVALSHA <this> 1 <prefix> <command> <arguments>; see the commands below.
--
-- The prefix is in braces, so that a cluster keeps all keys in one slot. After it come:
--   meta       hash: schema; head, id of the feed's last entry; held, the feed's bytes
--   events     hash: id -> value (negd/storage/redis/values.py: what is needed here, then JSON)
--   k:kind (2 bytes), a:author (32), t:letter and head of the value's SHA-256 (17)
--              sorted sets, the lists: record and kind (42 bytes) of each event, all of score 0,
--              so in the order of bytes
--   kinds      set: the kinds that have or had a list
--   expiry     sorted set: second (8) and id, score 0
--   addresses  hash: address (20) -> record of the event that holds it, its expiration or nothing
--   deleted-ids         set: id and author
--   deleted-addresses   hash: address -> last deleted second (8)
--   feed       stream: c of each entry is framed: id of the entry before, first expiration of the
--              new events or nothing, new records, gone records, JSON of each new or ephemeral
--              event in order
--   feed-sizes list: the bytes of each entry of the feed, oldest first
--   peers      hash: URL -> state
--   ledger:URL hash: id -> residue, newline, entry
--   due:residue:URL     sorted set: the ledger's ids by the time at which they are due
--   lease:name string: the holder's token, with the lease's time to live
-- Numbers in keys and values are big-endian.
--
-- The server refuses a script before its first write (no memory, no disk, not the master) or not
-- at all, and what comes from outside is parsed before: a script is done wholly or not at all.

local prefix = KEYS[1]
local call = redis.call
local commands = {}

-- Byte strings in one: each behind its length.
local function framed(pieces)
  local parts = {}
  for at, piece in ipairs(pieces) do parts[at] = struct.pack('>I4c0', #piece, piece) end
  return table.concat(parts)
end

-- Byte by byte: Lua's own comparison is that of the server's locale.
local function below(one, other)
  for at = 1, #one do
    local a, b = string.byte(one, at), string.byte(other, at)
    if a ~= b then return a < b end
  end
  return false
end

local function parse(value)
  local e = {}
  e.member, e.author, e.expiration, e.address, e.tags, e.asked_ids, e.asked_addresses, e.json_at =
    struct.unpack('>c42c32I4c0I4c0I4c0I4c0I4c0', value)
  e.record = string.sub(e.member, 1, 40)
  e.second = string.sub(e.member, 1, 8)
  e.id = string.sub(e.member, 9, 40)
  e.kind = struct.unpack('>I2', e.member, 41)
  return e
end

local function held(id)
  local value = call('HGET', prefix .. 'events', id)
  return value and parse(value), value
end

-- The event of that id and its value; nothing where there is none, or one that cannot be read.
local function sound(id)
  local parsed, e, value = pcall(held, id)
  if parsed then return e, value end
end

-- The lists that an event's member is in, without the prefix.
local function lists(e)
  local found = {'k:' .. string.sub(e.member, 41), 'a:' .. e.author}
  for at = 1, #e.tags, 17 do found[#found + 1] = 't:' .. string.sub(e.tags, at, at + 16) end
  return found
end

-- Opening ---------------------------------------------------------------------------------------

-- [schema to begin with, or nothing] -> the store's schema, or nothing
function commands.open(argv)
  local schema = call('HGET', prefix .. 'meta', 'schema')
  if not schema and argv[1] ~= '' then  -- a server without room refuses any write, a vain one too
    call('HSET', prefix .. 'meta', 'schema', argv[1])
    schema = argv[1]
  end
  return {schema or ''}
end

local function head()
  return call('HGET', prefix .. 'meta', 'head') or '0-0'
end

-- [] -> id of the feed's last entry
function commands.head()
  return {head()}
end

-- The second at which something expires first, within a lower bound; nothing for never.
local function first_expiry(low)
  local first = call('ZRANGEBYLEX', prefix .. 'expiry', low, '+', 'LIMIT', 0, 1)[1]
  return first and string.sub(first .. string.rep('\0', 8), 1, 8) or ''  -- in order if too short
end

-- [] -> id of the feed's last entry, second at which something expires first or nothing, kinds
function commands.state()
  local kinds = {}
  for _, kind in ipairs(call('SMEMBERS', prefix .. 'kinds')) do
    if #kind == 2 then kinds[#kinds + 1] = kind end
  end
  return {head(), first_expiry('-'), table.concat(kinds)}
end

-- Changing --------------------------------------------------------------------------------------

local changes, told, soonest, known_kinds = {}, {}, '', {}

-- Make known what was done, in one entry of the feed, which holds so many bytes; its head then.
local function publish(room, always)
  local new, gone = {}, {}
  for record, present in pairs(changes) do table.insert(present and new or gone, record) end
  if #new + #gone + #told == 0 and not always then return head() end
  local pieces = {head(), soonest, table.concat(new), table.concat(gone)}
  for _, json in ipairs(told) do pieces[#pieces + 1] = json end
  local entry = framed(pieces)
  local id = call('XADD', prefix .. 'feed', '*', 'c', entry)
  call('HSET', prefix .. 'meta', 'head', id)
  local bytes = call('HINCRBY', prefix .. 'meta', 'held', #entry)
  local entries = call('RPUSH', prefix .. 'feed-sizes', #entry)
  local kept = entries
  while bytes > tonumber(room) and kept > 1 do
    local oldest = call('LPOP', prefix .. 'feed-sizes')
    bytes, kept = call('HINCRBY', prefix .. 'meta', 'held', -oldest), kept - 1
  end
  if kept < entries then call('XTRIM', prefix .. 'feed', 'MAXLEN', kept) end
  return id
end

local asked = false

-- Have the server refuse now where it has no memory: it allows removals, and then all that follows.
local function ask_for_room()
  if not asked then call('HINCRBY', prefix .. 'meta', 'held', 0) end
  asked = true
end

local function remove(id)
  local e = held(id)
  if not e then return end
  call('HDEL', prefix .. 'events', id)
  for _, list in ipairs(lists(e)) do call('ZREM', prefix .. list, e.member) end
  if e.address ~= '' then call('HDEL', prefix .. 'addresses', e.address) end
  if e.expiration ~= '' then call('ZREM', prefix .. 'expiry', e.expiration .. id) end
  changes[e.record] = false
end

local function insert(e, value)
  if call('HSETNX', prefix .. 'events', e.id, value) == 0 then return false end
  for _, list in ipairs(lists(e)) do call('ZADD', prefix .. list, 0, e.member) end
  if not known_kinds[e.kind] then
    call('SADD', prefix .. 'kinds', string.sub(e.member, 41))
    known_kinds[e.kind] = true
  end
  if e.address ~= '' then
    call('HSET', prefix .. 'addresses', e.address, e.record .. e.expiration)
  end
  if e.expiration ~= '' then
    call('ZADD', prefix .. 'expiry', 0, e.expiration .. e.id)
    if soonest == '' or below(e.expiration, soonest) then soonest = e.expiration end
  end
  changes[e.record] = true
  return true
end

-- The rules are those of negd/storage/rules.py, in the same order.

local DELETION = 5

local function forbidden(e)
  if call('SISMEMBER', prefix .. 'deleted-ids', e.id .. e.author) == 1 then return true end
  if e.address == '' then return false end
  local last = call('HGET', prefix .. 'deleted-addresses', e.address)
  return last and not below(last, e.second)
end

local function replaces(e, holder, now)
  local expiration = string.sub(holder, 41)
  if expiration ~= '' and not below(now, expiration) then return true end
  local second = string.sub(holder, 1, 8)
  if second ~= e.second then return below(second, e.second) end
  return below(e.id, string.sub(holder, 9, 40))
end

local function deletable(e, deletion)
  return e.author == deletion.author and e.kind ~= DELETION
end

local function obey(deletion)
  for at = 1, #deletion.asked_ids, 32 do
    local id = string.sub(deletion.asked_ids, at, at + 31)
    call('SADD', prefix .. 'deleted-ids', id .. deletion.author)
    local e = held(id)
    if e and deletable(e, deletion) then remove(id) end
  end
  for at = 1, #deletion.asked_addresses, 20 do
    local address = string.sub(deletion.asked_addresses, at, at + 19)
    local last = call('HGET', prefix .. 'deleted-addresses', address)
    if not last or below(last, deletion.second) then
      call('HSET', prefix .. 'deleted-addresses', address, deletion.second)
    end
    local holder = call('HGET', prefix .. 'addresses', address)
    if holder and not below(deletion.second, string.sub(holder, 1, 8)) then
      remove(string.sub(holder, 9, 40))
    end
  end
end

local function take(e, value, now)
  if e.kind >= 20000 and e.kind < 30000 then return 'e' end
  if e.kind ~= DELETION and forbidden(e) then return 'x' end
  local holder = e.address ~= '' and call('HGET', prefix .. 'addresses', e.address)
  if holder then
    if string.sub(holder, 1, 40) == e.record then return 'd' end
    if not replaces(e, holder, now) then return 'r' end
    ask_for_room()
    remove(string.sub(holder, 9, 40))
  end
  if not insert(e, value) then return 'd' end
  if e.kind == DELETION then obey(e) end
  return 's'
end

-- [now (8 bytes), bytes of feed to keep, values...] -> the feed's head, a letter for each value:
-- s stored, d duplicate, r superseded, x deleted, e ephemeral. None of them may be expired.
function commands.ingest(argv)
  local events, outcomes = {}, {}
  for at = 3, #argv do events[at - 2] = parse(argv[at]) end
  for at, e in ipairs(events) do
    local value = argv[at + 2]
    outcomes[at] = take(e, value, argv[1])
    if outcomes[at] == 's' or outcomes[at] == 'e' then
      told[#told + 1] = string.sub(value, e.json_at)
    end
  end
  return {publish(argv[2]), table.concat(outcomes)}
end

-- [the second after now (8 bytes), bytes of feed to keep, events to remove at most]
-- -> the feed's head, second at which something expires next or nothing
function commands.sweep(argv)
  local range = {prefix .. 'expiry', '-', '(' .. argv[1], 'LIMIT', 0, argv[3]}
  for _, member in ipairs(call('ZRANGEBYLEX', unpack(range))) do
    remove(string.sub(member, 9))
    call('ZREM', prefix .. 'expiry', member)
  end
  return {publish(argv[2]), first_expiry('-')}
end

-- Reading ---------------------------------------------------------------------------------------
-- Bounds are written as ZRANGEBYLEX wants them.

-- [the second after now (8 bytes), lower bound, events at most, bytes of events at which to stop]
-- -> the last member of expiry that was seen or nothing, second at which something expires after
-- now or nothing, the records of what has expired
function commands.expired(argv)
  local last, records, room = '', {}, tonumber(argv[4])
  local range = {prefix .. 'expiry', argv[2], '(' .. argv[1], 'LIMIT', 0, argv[3]}
  for _, member in ipairs(call('ZRANGEBYLEX', unpack(range))) do
    last = member
    local e, value = sound(string.sub(member, 9))
    if e then
      records[#records + 1] = e.record
      room = room - #value
      if room <= 0 then break end
    end
  end
  return {last, first_expiry('[' .. argv[1]), table.concat(records)}
end

-- Whether a list is one, and in the order of bytes: that is where all scores are the same.
local function ordered(key)
  local members = redis.pcall('ZCARD', key)
  return type(members) == 'number' and call('ZCOUNT', key, 0, 0) == members
end

-- [members at most, upper bound, lower bound in the first list, in the others, lists...]
-- -> how many lists were read to their end, the members, the last that was seen, how many were none
function commands.read(argv)
  local left, low, finished, found, last, strange = tonumber(argv[1]), argv[3], 0, {}, '', 0
  for at = 5, #argv do
    local key = prefix .. argv[at]
    if not ordered(key) then
      return redis.error_reply('DAMAGED index: negctl verify --repair mends it')
    end
    local members = call('ZRANGEBYLEX', key, low, argv[2], 'LIMIT', 0, left)
    left, last = left - #members, members[#members] or last
    for _, member in ipairs(members) do
      if #member == 42 then found[#found + 1] = member else strange = strange + 1 end
    end
    if left == 0 then break end
    finished, low = finished + 1, argv[4]
  end
  return {tostring(finished), table.concat(found), last, tostring(strange)}
end

-- [cursor, about how many] -> the next cursor, the records of events, whatever the lists say
function commands.records(argv)
  local scanned = call('HSCAN', prefix .. 'events', argv[1], 'COUNT', argv[2])
  local records, found = {}, scanned[2]
  for at = 2, #found, 2 do
    local parsed, e = pcall(parse, found[at])
    if parsed then records[#records + 1] = e.record end
  end
  return {scanned[1], table.concat(records)}
end

-- [lower bound, upper bound, lists...] -> how many members each has there (u32)
function commands.sizes(argv)
  local sizes = {}
  for at = 3, #argv do
    sizes[at - 2] = struct.pack('>I4', call('ZLEXCOUNT', prefix .. argv[at], argv[1], argv[2]))
  end
  return {table.concat(sizes)}
end

-- [n, lower bound, upper bound, lists...]
-- -> of each list that has as many members there, the second of the n-th from above (8 bytes)
function commands.reach(argv)
  local seconds = {}
  for at = 4, #argv do
    local range = {prefix .. argv[at], argv[3], argv[2], 'LIMIT', argv[1] - 1, 1}
    local member = call('ZREVRANGEBYLEX', unpack(range))[1]
    seconds[#seconds + 1] = string.sub(member or '', 1, 8)
  end
  return {table.concat(seconds)}
end

-- [bytes of events at which to stop, ids...] -> the JSON of each event, or nothing
function commands.fetch(argv)
  local room, found = tonumber(argv[1]), {}
  for at = 2, #argv do
    local e, value = held(argv[at])
    local json = e and string.sub(value, e.json_at) or ''
    found[at - 1], room = json, room - #json
    if room <= 0 then break end
  end
  return found
end

-- [bytes of events at which to stop, ids...] -> member and author of each event, or nothing
function commands.heads(argv)
  local room, found = tonumber(argv[1]), {}
  for at = 2, #argv do
    local e, value = held(argv[at])
    found[at - 1], room = e and e.member .. e.author or '', room - (e and #value or 0)
    if room <= 0 then break end
  end
  return found
end

-- [ids...] -> for each 1 if it is held, else 0
function commands.known(argv)
  local found = {}
  for at, id in ipairs(argv) do found[at] = call('HEXISTS', prefix .. 'events', id) end
  return {table.concat(found)}
end

-- [] -> how many events are held
function commands.count()
  return {tostring(call('HLEN', prefix .. 'events'))}
end

-- Verifying and repairing -----------------------------------------------------------------------
-- Where a command has a room, that is the bytes of feed to keep; nothing for a look only.

-- Whether all that a deletion asks for is remembered, as far as it matters.
local function remembered(deletion)
  for at = 1, #deletion.asked_ids, 32 do
    local id = string.sub(deletion.asked_ids, at, at + 31)
    if call('SISMEMBER', prefix .. 'deleted-ids', id .. deletion.author) == 0 then
      local e = sound(id)
      if not e or deletable(e, deletion) then return false end
    end
  end
  for at = 1, #deletion.asked_addresses, 20 do
    local address = string.sub(deletion.asked_addresses, at, at + 19)
    local last = call('HGET', prefix .. 'deleted-addresses', address)
    if not last or below(last, deletion.second) then return false end
  end
  return true
end

-- Whether a member has its place in a list, which may be no list at all.
local function is_in(key, member)
  return redis.pcall('ZSCORE', key, member) == '0'
end

-- The names of the lists and the like in which the event is not; 'deleted' and 'obeyed' stand for
-- what is no list.
local function lacking(e)
  local found = {}
  if e.kind == DELETION then
    if not remembered(e) then found[#found + 1] = 'obeyed' end
  elseif forbidden(e) then
    found[#found + 1] = 'deleted'
  end
  for _, list in ipairs(lists(e)) do
    if not is_in(prefix .. list, e.member) then found[#found + 1] = list end
  end
  if e.expiration ~= '' and not is_in(prefix .. 'expiry', e.expiration .. e.id) then
    found[#found + 1] = 'expiry'
  end
  if e.address ~= '' then
    local holder = call('HGET', prefix .. 'addresses', e.address)
    if holder ~= e.record .. e.expiration then found[#found + 1] = 'addresses' end
  end
  if call('SISMEMBER', prefix .. 'kinds', string.sub(e.member, 41)) == 0 then
    found[#found + 1] = 'kinds'
  end
  return found
end

-- [cursor, about how many]
-- -> the next cursor; of each event its id, its value, and where it is missing (framed)
function commands.verify_events(argv)
  local scanned = call('HSCAN', prefix .. 'events', argv[1], 'COUNT', argv[2])
  local reply, found = {scanned[1]}, scanned[2]
  for at = 1, #found, 2 do
    local parsed, e = pcall(parse, found[at + 1])
    for _, piece in ipairs({found[at], found[at + 1], framed(parsed and lacking(e) or {})}) do
      reply[#reply + 1] = piece
    end
  end
  return reply
end

-- Take what stands under an id out of events, and out of the indexes as far as it is that event.
local function forget(id, value)
  call('HDEL', prefix .. 'events', id)
  local parsed, e = pcall(parse, value)
  if not parsed or e.id ~= id then return end
  for _, list in ipairs(lists(e)) do call('ZREM', prefix .. list, e.member) end
  if e.expiration ~= '' then call('ZREM', prefix .. 'expiry', e.expiration .. id) end
  local holder = e.address ~= '' and call('HGET', prefix .. 'addresses', e.address)
  if holder and string.sub(holder, 9, 40) == id then
    call('HDEL', prefix .. 'addresses', e.address)
  end
  changes[e.record] = false
end

-- Have an event in all its indexes, unless it is deleted or one of the same address goes before
-- it; and have what it deletes deleted.
local function restore(e, value, now)
  if e.kind ~= DELETION and forbidden(e) then return end
  local holder = e.address ~= '' and call('HGET', prefix .. 'addresses', e.address)
  local rival = holder and sound(string.sub(holder, 9, 40))
  if rival and rival.address == e.address then
    if not replaces(e, rival.record .. rival.expiration, now) then return end
    remove(rival.id)
  end
  insert(e, value)
  if e.kind == DELETION then obey(e) end
end

-- [now (8 bytes), room; of each event its id, its value as it was seen, the value that it should
-- have or nothing for none...] -> nothing
function commands.mend_events(argv)
  for at = 3, #argv, 3 do
    local id, seen, value = argv[at], argv[at + 1], argv[at + 2]
    if call('HGET', prefix .. 'events', id) == seen then
      forget(id, seen)
      if value ~= '' then restore(parse(value), value, argv[1]) end
    end
  end
  publish(argv[2])
  return {}
end

-- [room] -> 1 if the feed knew its entries and its bytes, else 0
function commands.verify_feed(argv)
  local bytes = 0
  for _, size in ipairs(call('LRANGE', prefix .. 'feed-sizes', 0, -1)) do bytes = bytes + size end
  local last = call('XREVRANGE', prefix .. 'feed', '+', '-', 'COUNT', 1)[1]
  local known = call('XLEN', prefix .. 'feed') == call('LLEN', prefix .. 'feed-sizes')
    and bytes == tonumber(call('HGET', prefix .. 'meta', 'held') or 0)
    and (last and last[1] or '0-0') == head()
  if not known and argv[1] ~= '' then
    call('XTRIM', prefix .. 'feed', 'MAXLEN', 0)
    call('DEL', prefix .. 'feed-sizes')
    call('HSET', prefix .. 'meta', 'held', 0)
    publish(argv[1], true)
  end
  return {known and '1' or '0'}
end

-- [room, cursor, keys to look at, about]
-- -> the next cursor, the lists found (framed), keys in their place that are of another type
function commands.lists(argv)
  local scanned = call('SCAN', argv[2], 'MATCH', prefix .. '[kat]:*', 'COUNT', argv[3])
  local reply, found = {scanned[1], ''}, {}
  for _, key in ipairs(scanned[2]) do
    local is_list = call('TYPE', key).ok == 'zset'
    table.insert(is_list and found or reply, string.sub(key, #prefix + 1))
    if not is_list and argv[1] ~= '' then call('UNLINK', key) end
  end
  reply[2] = framed(found)
  return reply
end

-- Members that bring a list out of order, as they have another score than 0.
local function misplaced(key)
  local found = call('ZRANGEBYSCORE', key, '-inf', '(0', 'LIMIT', 0, 200)
  for _, member in ipairs(call('ZRANGEBYSCORE', key, '(0', '+inf', 'LIMIT', 0, 200)) do
    found[#found + 1] = member
  end
  return found
end

-- The lists that a member belongs to, as a set.
local function places_of(member)
  local e, found = sound(string.sub(member, 9, 40)), {}
  for _, list in ipairs(e and e.member == member and lists(e) or {}) do found[list] = true end
  return found
end

-- Take a member out of a list that it does not belong to.
local function drop_stray(list, member)
  call('ZREM', prefix .. list, member)
  local record, e = string.sub(member, 1, 40), sound(string.sub(member, 9, 40))
  if #member == 42 and not (e and e.record == record) then changes[record] = false end
end

-- [room, members at most, lower bound in the first list, lists...]
-- -> how many lists were looked at to their end, the last member; list and member of each stray
function commands.verify_lists(argv)
  local left, low, finished, last, strays = tonumber(argv[2]), argv[3], 0, '', {}
  local places = {}
  local function report(list, member)
    table.insert(strays, list)
    table.insert(strays, member)
    if argv[1] ~= '' then drop_stray(list, member) end
  end
  for at = 4, #argv do
    local list = argv[at]
    local moved, members = misplaced(prefix .. list), {}
    for _, member in ipairs(moved) do report(list, member) end
    if #moved > 0 and argv[1] ~= '' then  -- it is looked at again, from its beginning
      last = ''
      break
    elseif #moved == 0 then
      members = call('ZRANGEBYLEX', prefix .. list, low, '+', 'LIMIT', 0, left)
    end
    for _, member in ipairs(members) do
      places[member] = places[member] or places_of(member)
      if not places[member][list] then report(list, member) end
      last = member
    end
    left = left - #members
    if left == 0 then break end
    finished, low = finished + 1, '-'
  end
  if argv[1] ~= '' then publish(argv[1]) end
  table.insert(strays, 1, tostring(finished))
  table.insert(strays, 2, last)
  return strays
end

-- [room, cursor, about how many] -> the next cursor, the ids that hold an address not theirs
function commands.verify_addresses(argv)
  local scanned = call('HSCAN', prefix .. 'addresses', argv[2], 'COUNT', argv[3])
  local reply, found = {scanned[1]}, scanned[2]
  for at = 1, #found, 2 do
    local address, holder = found[at], found[at + 1]
    local e = sound(string.sub(holder, 9, 40))
    if not e or e.address ~= address or e.record .. e.expiration ~= holder then
      reply[#reply + 1] = string.sub(holder, 9, 40)
      if argv[1] ~= '' then call('HDEL', prefix .. 'addresses', address) end
    end
  end
  return reply
end

-- [room, lower bound, how many] -> the last member or nothing, the ids that do not expire then
function commands.verify_expiry(argv)
  local members, reply = misplaced(prefix .. 'expiry'), {''}
  for _, member in ipairs(members) do
    reply[#reply + 1] = string.sub(member, 9)
    if argv[1] ~= '' then call('ZREM', prefix .. 'expiry', member) end
  end
  if #members > 0 and argv[1] == '' then return reply end
  members = call('ZRANGEBYLEX', prefix .. 'expiry', argv[2], '+', 'LIMIT', 0, argv[3])
  reply[1] = members[#members] or ''
  for _, member in ipairs(members) do
    local e = sound(string.sub(member, 9))
    if not e or e.expiration ~= string.sub(member, 1, 8) then
      reply[#reply + 1] = string.sub(member, 9)
      if argv[1] ~= '' then call('ZREM', prefix .. 'expiry', member) end
    end
  end
  return reply
end

-- Peers -----------------------------------------------------------------------------------------

local function ledger(url) return prefix .. 'ledger:' .. url end
local function due(url, residue) return prefix .. 'due:' .. residue .. ':' .. url end

-- An entry and its residue, as they are kept in one value.
local function split(kept)
  return string.match(kept or '', '\n(.*)') or '', string.match(kept or '', '^[^\n]*')
end

local function drop(url, id)
  local kept = call('HGET', ledger(url), id)
  if kept then
    local _, residue = split(kept)
    call('HDEL', ledger(url), id)
    call('ZREM', due(url, residue), id)
  end
end

local function next_due(url, residues)
  local first, soonest
  for residue in string.gmatch(residues, '%S+') do
    local id, time = unpack(call('ZRANGE', due(url, residue), 0, 0, 'WITHSCORES'))
    time = tonumber(time)
    if id and (not first or time < soonest or (time == soonest and below(id, first))) then
      first, soonest = id, time
    end
  end
  return first
end

-- [URL, state] -> nothing
function commands.put_peer(argv)
  call('HSET', prefix .. 'peers', argv[1], argv[2])
  return {}
end

-- [URL, state] -> nothing
function commands.update_peer(argv)
  if call('HEXISTS', prefix .. 'peers', argv[1]) == 1 then return commands.put_peer(argv) end
  return {}
end

-- [] -> URL and state of each
function commands.peers()
  return call('HGETALL', prefix .. 'peers')
end

-- [URL, all residues between spaces, entries to keep at most, how many new ones; of each id, time,
-- residue, entry; settled ids...] -> nothing
function commands.write_ledger(argv)
  local url, residues, most, settled_at = argv[1], argv[2], argv[3], 5 + 4 * argv[4]
  if settled_at > 5 then ask_for_room() end
  for at = 5, settled_at - 1, 4 do
    local id, time, residue, entry = argv[at], argv[at + 1], argv[at + 2], argv[at + 3]
    drop(url, id)
    call('HSET', ledger(url), id, residue .. '\n' .. entry)
    call('ZADD', due(url, residue), time, id)
  end
  for at = settled_at, #argv do drop(url, argv[at]) end
  for _ = most + 1, call('HLEN', ledger(url)) do drop(url, next_due(url, residues)) end
  return {}
end

-- [URL, ids...] -> the entry of each, or nothing
function commands.ledger(argv)
  local found = {}
  for at = 2, #argv do found[at - 1] = split(call('HGET', ledger(argv[1]), argv[at])) end
  return found
end

-- [URL, residue, how many] -> id and entry of each, in the order in which they are due
function commands.entries(argv)
  local found = {}
  local range = {due(argv[1], argv[2]), '-inf', '+inf', 'LIMIT', 0, argv[3]}
  for _, id in ipairs(call('ZRANGEBYSCORE', unpack(range))) do
    table.insert(found, id)
    table.insert(found, (split(call('HGET', ledger(argv[1]), id))))
  end
  return found
end

-- [URL, residues...] -> how many entries each has
function commands.residues(argv)
  local counts = {}
  for at = 2, #argv do counts[at - 1] = tostring(call('ZCARD', due(argv[1], argv[at]))) end
  return counts
end

-- [URL, residues...] -> nothing
function commands.clear_ledger(argv)
  call('UNLINK', ledger(argv[1]))
  for at = 2, #argv do call('UNLINK', due(argv[1], argv[at])) end
  return {}
end

-- [URL, residues...] -> nothing
function commands.remove_peer(argv)
  call('HDEL', prefix .. 'peers', argv[1])
  return commands.clear_ledger(argv)
end

-- Leases ----------------------------------------------------------------------------------------

-- [name, token, milliseconds] -> 1 if the token has the lease now, else 0
function commands.hold(argv)
  local lease = prefix .. 'lease:' .. argv[1]
  local holder = call('GET', lease)
  if holder and holder ~= argv[2] then return {'0'} end
  call('SET', lease, argv[2], 'PX', argv[3])
  return {'1'}
end

-- [name, token] -> nothing
function commands.release(argv)
  local lease = prefix .. 'lease:' .. argv[1]
  if call('GET', lease) == argv[2] then call('DEL', lease) end
  return {}
end

local reply = commands[table.remove(ARGV, 1)](ARGV)
return reply.err and reply or framed(reply)
