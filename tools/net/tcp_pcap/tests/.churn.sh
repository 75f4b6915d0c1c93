echo 16 > /proc/sys/net/ipv4/tcp_pcap_packets
/usr/bin/python3 - <<'P' &
import socket,threading,time
def drain(a):
    while a.recv(65536): pass
def bulk():
    s=socket.create_server(('127.0.0.1',7000)); c=socket.create_connection(('127.0.0.1',7000)); a=s.accept()[0]
    threading.Thread(target=drain,args=(a,),daemon=True).start()
    while 1: c.sendall(b'z'*100000); time.sleep(0.002)
def small():
    s=socket.create_server(('127.0.0.1',7001)); c=socket.create_connection(('127.0.0.1',7001)); a=s.accept()[0]
    while 1: c.sendall(b'q'*100); a.recv(100); a.sendall(b'r'*10); c.recv(10)
def churn():
    s=socket.create_server(('127.0.0.1',7002),backlog=50)
    L=[]
    while 1:
        c=socket.create_connection(('127.0.0.1',7002)); a=s.accept()[0]; c.sendall(b'q'*100); a.recv(100); L.append((c,a))
        if len(L)>30: x=L.pop(0); x[0].close(); x[1].close()
for f in (bulk,small,churn): threading.Thread(target=f,daemon=True).start()
time.sleep(1000)
P
sleep 3
for i in 1 2; do
$PY tools/net/tcp_pcap/drgn/tcp_pcap.py -k -s $VMLINUX list > $OUT/l$i 2>&1; echo "list $?"; tail -2 $OUT/l$i
$PY tools/net/tcp_pcap/drgn/tcp_pcap.py -k -s $VMLINUX export -o $OUT/l$i.pcapng; echo "export $?"
done
