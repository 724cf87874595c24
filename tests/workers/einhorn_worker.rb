# A worker of einhorn's in Ruby, as the gem's Einhorn::Worker makes one: acks by the real Psych,
# takes its socket by number, leaves gracefully on USR2. It answers every connection with its pid.
require 'socket'
require 'yaml'

raise 'no worker' unless Process.ppid == Integer(ENV.fetch('EINHORN_MASTER_PID'))
asked = false
trap('USR2') { asked = true }
sockets = Array.new(Integer(ENV.fetch('EINHORN_FD_COUNT'))) do |n|
  Socket.for_fd(Integer(ENV.fetch("EINHORN_FD_#{n}")))
end
ack = { 'command' => 'worker:ack', 'pid' => $$ }
UNIXSocket.open(ENV.fetch('EINHORN_SOCK_PATH')) do |control|
  control.write(YAML.dump(ack).gsub(/[%\n]/) { |c| format('%%%02X', c.ord) } + "\n")
end
until asked
  ready, = IO.select(sockets, nil, nil, 0.05)
  (ready || []).each do |socket|
    client, = socket.accept_nonblock(exception: false)
    next unless client.is_a?(Socket)
    nil until client.gets.to_s.strip.empty?
    body = "pid #{$$} version ruby\n"
    client.write("HTTP/1.1 200 OK\r\nContent-Length: #{body.size}\r\nConnection: close\r\n\r\n#{body}")
    client.close
  end
end
warn "worker [#{$$}] leaves"
