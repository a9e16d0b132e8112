-- Ask for 20,000 different paths, each with the ten headers of a browser, three of which differ as well.
-- They are made before the run: LuaJIT on the load's core would be the bottleneck otherwise.
local here = debug.getinfo(1, "S").source:match("@?(.*/)")
dofile(here .. "hello.lua")

local MOST = 20000
local requests, turn = {}, 0

function init(_)
  math.randomseed(7)
  for number = 1, MOST do
    requests[number] = table.concat({
      "GET /hello?page=" .. number .. "&seed=" .. math.random(1, 1e9) .. " HTTP/1.1",
      "Host: 127.0.0.1",
      "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
      "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
      "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
      "Accept-Encoding: gzip, deflate, br, zstd",
      "Connection: keep-alive",
      "Cookie: session=" .. math.random(1, 1e9) .. "; theme=dark",
      "Referer: http://127.0.0.1/list?page=" .. number,
      "Upgrade-Insecure-Requests: 1",
      "Cache-Control: max-age=0",
      "", "" }, "\r\n")
  end
end

function request()
  turn = turn % MOST + 1
  return requests[turn]
end
